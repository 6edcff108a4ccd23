"""``learner_test`` finds what is wrong with a learner from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from accelerate import Accelerator
from torch import Tensor

from tests.learners import toy_config
from waltz_env.algorithms.protocols import Learner, Metrics, Policy, Sample
from waltz_env.testing import learner_test


class Outsider:
    """A sound learner; the classes below break it."""

    def __init__(self, policy: Policy, accelerator: Accelerator) -> None:
        self.policy = policy
        self.sound = toy_config("reinforce++").build(policy, accelerator)

    def update(self, samples: Sequence[Sample]) -> Metrics:
        return self.sound.update(samples)

    def state_dict(self) -> dict[str, Tensor]:
        return self.sound.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.sound.load_state_dict(state)


class CountsNoVersions(Outsider):
    def update(self, samples: Sequence[Sample]) -> Metrics:
        version = self.policy.version
        metrics = super().update(samples)
        self.policy.version = version
        return metrics


class CountsEmptyUpdates(Outsider):
    def update(self, samples: Sequence[Sample]) -> Metrics:
        if not samples:
            self.policy.version += 1
        return super().update(samples)


class Idle(Outsider):
    def update(self, samples: Sequence[Sample]) -> Metrics:
        self.policy.version += bool(samples)
        return {}


class ClimbsDown(Outsider):
    def update(self, samples: Sequence[Sample]) -> Metrics:
        return super().update([replace(sample, reward=-sample.reward) for sample in samples])


class ForgetsItsState(Outsider):
    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        pass


class SavesNumbers(Outsider):
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"lr": 0.1}


class LosesAToken(Outsider):
    def update(self, samples: Sequence[Sample]) -> Metrics:
        return super().update([replace(sample, prompt_ids=sample.prompt_ids[1:] or (0,)) for sample in samples])


class TakesOtherLogprobs(Outsider):
    def update(self, samples: Sequence[Sample]) -> Metrics:
        return super().update([replace(s, logprobs=tuple(p - 0.5 for p in s.logprobs)) for s in samples])


class CountsInIntegers(Outsider):
    def update(self, samples: Sequence[Sample]) -> Metrics:
        return super().update(samples) | {"rows": len(samples)}


@dataclass(frozen=True)
class Config:
    """Settings from outside: nothing but ``build``."""

    learner: Callable[[Policy, Accelerator], Learner]

    def build(self, policy: Policy, accelerator: Accelerator) -> Learner:
        return self.learner(policy, accelerator)


def test_a_sound_learner_from_outside_passes() -> None:
    learner_test(Config(Outsider))


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (CountsNoVersions, "must add 1 to policy.version; after the first it is 0"),
        (CountsEmptyUpdates, r"update\(\[\]\) must leave policy.version at 0; it is 1"),
        (Idle, "must ask the policy"),
        (ClimbsDown, "must raise the expected reward"),
        (ForgetsItsState, "4 updates must equal 2.*differ: table"),
        (SavesNumbers, "tensors alone.*not so: lr"),
        (LosesAToken, "must hold samples"),
        (TakesOtherLogprobs, "kl must be 0.0; got -0.5"),
        (CountsInIntegers, "finite floats by name; got {'rows': 0}"),
    ],
)
def test_a_broken_learner_is_told_how(learner: type[Outsider], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        learner_test(Config(learner))


def test_a_learner_that_does_not_learn_is_found() -> None:
    with pytest.raises(AssertionError, match="must change the policy"):
        learner_test(toy_config("reinforce++", learning_rate=0.0))
    with pytest.raises(AssertionError, match="'constant target' must be solved in 40 updates"):
        learner_test(toy_config("reinforce++", learning_rate=1e-4))
