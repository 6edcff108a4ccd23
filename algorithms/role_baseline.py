"""REINFORCE whose baseline is a moving average of past rewards, one per role: agent and turn.

1. As role-conditioned advantage estimation (SPIRAL, arXiv:2506.24119): b <- decay b + (1 - decay) R, then A = R - b,
   with one b per role, so that no role's luck counts as another's merit; decay 0.95 there and here; no normalization,
   no critic.
2. Different: a role is an agent in one turn, so drafts and revisions have baselines of their own, and b follows the
   mean reward of each batch, once per update, not each game.
3. Different: b is corrected for its start at 0 as Adam's moments are (b / (1 - decay^n)); the first b is the mean of
   the first batch.
4. Different: the KL penalty is a k2 term of the loss, and the gradient goes through the clipped objective, which in one
   on-policy step is that of REINFORCE (Williams 1992): ``aggregation="sum"``, the log-probability of the whole action.
5. Different: an update is skipped and counted only if no reward differs from its baseline: a batch that is better than
   earlier ones as a whole has something to teach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, get_args

import torch
from accelerate.accelerator import Accelerator
from torch import Tensor

from waltz_env.algorithms.advantages import group_moments
from waltz_env.algorithms.estimator import Estimator
from waltz_env.algorithms.losses import KL, Aggregation
from waltz_env.algorithms.policy_gradient import PolicyGradient
from waltz_env.algorithms.protocols import Metrics, Policy
from waltz_env.algorithms.surrogate import SurrogateConfig
from waltz_env.algorithms.update_batch import SampleFacts, UpdateBatch
from waltz_env.checks import check_choice, check_number, check_settings

Role = tuple[str, int]
"""An agent and its turn."""

_PREFIX = "baseline"


class MovingAverages:
    """The mean reward of each role over recent updates."""

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._averages: dict[Role, tuple[float, int]] = {}

    def __getitem__(self, role: Role) -> float:
        average, updates = self._averages[role]
        return average / (1 - self._decay**updates)

    def follow(self, facts: Sequence[SampleFacts]) -> None:
        """Move the average of each role in ``facts`` towards its mean reward there."""
        batch = group_moments([(fact.agent, fact.turn) for fact in facts], [fact.reward for fact in facts])
        for role, moments in batch.items():
            average, updates = self._averages.get(role, (0.0, 0))
            self._averages[role] = (self._decay * average + (1 - self._decay) * moments.mean, updates + 1)

    def state_dict(self) -> dict[str, Tensor]:
        """``"baseline/AGENT/TURN"``: average and number of updates, float64."""
        return {
            f"{_PREFIX}/{agent}/{turn}": torch.tensor(entry, dtype=torch.float64)
            for (agent, turn), entry in self._averages.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state returned by ``state_dict``; other keys of ``state`` are ignored."""
        self._averages = {}
        for name, tensor in state.items():
            if name.startswith(f"{_PREFIX}/"):
                _, agent, turn = name.split("/")
                average, updates = tensor.tolist()
                self._averages[agent, int(turn)] = (average, int(updates))


class RoleBaseline(Estimator):
    """The advantages of REINFORCE with role-conditioned baselines, which remember earlier updates.

    Args:
        decay: share of a baseline that one update keeps, in [0, 1).
    """

    kl: ClassVar[KL] = "k2"

    def __init__(self, decay: float = 0.95) -> None:
        self._baselines = MovingAverages(decay)

    def observe(self, all_facts: Sequence[SampleFacts]) -> None:
        self._baselines.follow(all_facts)

    def surprises(self, all_facts: Sequence[SampleFacts]) -> list[float]:
        return [fact.reward - self._baselines[fact.agent, fact.turn] for fact in all_facts]

    def agents_to_learn(self, all_facts: Sequence[SampleFacts], min_std: float) -> set[str]:
        surprised = any(abs(surprise) >= min_std for surprise in self.surprises(all_facts))
        return {fact.agent for fact in all_facts} if surprised else set()

    def advantages(self, batch: UpdateBatch) -> Tensor:
        return batch.spread(self.surprises(batch.facts))

    def metrics(self, batch: UpdateBatch) -> Metrics:
        """``baseline``, the mean over the samples of all processes."""
        baselines = [self._baselines[fact.agent, fact.turn] for fact in batch.all_facts]
        return {"baseline": sum(baselines) / len(baselines)}

    def state_dict(self) -> dict[str, Tensor]:
        return self._baselines.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._baselines.load_state_dict(state)


@dataclass(frozen=True, slots=True)
class RoleBaselineConfig:
    """Settings of REINFORCE with role-conditioned baselines.

    Attributes:
        decay: share of a baseline that one update keeps, in [0, 1).
        aggregation: how the losses of tokens add up, see ``losses.token_weights``.
        surrogate: settings that all algorithms share.
    """

    decay: float = 0.95
    aggregation: Aggregation = "sum"
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)

    def __post_init__(self) -> None:
        check_settings(self)
        check_number("decay", self.decay, low=0, below=1)
        check_choice("aggregation", self.aggregation, get_args(Aggregation))

    def estimator(self) -> RoleBaseline:
        """The advantages alone, for an engine without our policies."""
        return RoleBaseline(self.decay)

    def build(self, policy: Policy, accelerator: Accelerator | None = None) -> PolicyGradient:
        """Return a new learner for ``policy``."""
        return PolicyGradient(
            policy, self.estimator(), surrogate=self.surrogate, aggregation=self.aggregation, accelerator=accelerator
        )
