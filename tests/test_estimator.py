"""Advantages are computed from plain data, wherever that is."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.learners import random_table, toy_config
from waltz_env.algorithms.batches import deal, pad
from waltz_env.algorithms.estimator import Estimator
from waltz_env.algorithms.policy_gradient import PolicyGradient
from waltz_env.algorithms.probes.conformance import toy_rows
from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.processes import Processes
from waltz_env.algorithms.protocols import Sample
from waltz_env.algorithms.registry import ALGORITHMS, algorithm
from waltz_env.algorithms.surrogate import Surrogate, SurrogateConfig
from waltz_env.algorithms.update_batch import SampleFacts, UpdateBatch
from waltz_env.errors import UsageError

REFERENCE = ToyPolicy(random_table(5, 1))


def policy() -> ToyPolicy:
    return ToyPolicy(random_table(5), reference=random_table(5, 1))


def as_json(samples: list[Sample]) -> str:
    """What an engine on another machine would send: numbers and strings."""
    return json.dumps(
        {
            "facts": [SampleFacts.of(sample) for sample in samples],
            "old_logprobs": [sample.logprobs for sample in samples],
            "reference_logprobs": [REFERENCE.logprobs(sample.prompt_ids, sample.token_ids) for sample in samples],
        }
    )


def batch_of(text: str) -> UpdateBatch:
    data = json.loads(text)
    facts = [SampleFacts(*fact) for fact in data["facts"]]
    old, mask = pad(data["old_logprobs"])
    reference, _ = pad(data["reference_logprobs"])
    return UpdateBatch(facts, facts, mask, old, reference, values=torch.zeros(mask.shape))  # V before its first fit


@pytest.mark.parametrize("name", ALGORITHMS)
def test_advantages_from_plain_data_make_the_update_that_the_learner_makes(name: str) -> None:
    samples = toy_rows(policy())
    expected = policy()
    config = toy_config(name)
    config.build(expected).update(samples)

    batch = batch_of(as_json(samples))
    estimator = config.estimator()
    estimator.observe(batch.all_facts)
    assert estimator.agents_to_learn(batch.all_facts, 1e-6) == {""}
    advantages = estimator.advantages(batch)

    learning, alone = policy(), Processes(None)
    engine = Surrogate(learning, config.surrogate, aggregation=config.aggregation, processes=alone)
    steps = deal(samples, minibatches=1, tokens_per_microbatch=100, device=learning.device, processes=alone)
    engine.improve(batch, advantages, steps=steps, kl=estimator.kl)
    torch.testing.assert_close(learning.table, expected.table, rtol=0, atol=1e-6)
    assert not torch.allclose(learning.table, random_table(5), atol=1e-3)


class Plain(Estimator):
    """The reward itself at every token: REINFORCE without a baseline."""

    def advantages(self, batch: UpdateBatch) -> Tensor:
        return batch.spread(batch.rewards)


def facts(*rewards: float, groups: str = "") -> list[SampleFacts]:
    return [SampleFacts("a", 0, group, r, 1, 0) for r, group in zip(rewards, groups or "x" * len(rewards), strict=True)]


def test_what_differs_from_nothing_is_the_reward_and_within_groups_the_distance_to_their_mean() -> None:
    class InGroups(Plain):
        needs_groups = True

    rows = facts(1.0, 0.0, 0.5, groups="xxy")
    assert Plain().surprises(rows) == [1.0, 0.0, 0.5]
    assert InGroups().surprises(rows) == [0.5, -0.5, 0.0]
    assert Plain().agents_to_learn(facts(1.0, 0.5, groups="xy"), 1e-6) == {"a"}
    assert InGroups().agents_to_learn(facts(1.0, 0.5, groups="xy"), 1e-6) == set()


def test_moments_of_other_processes_count() -> None:
    """Another process has two values of group x that add up to 5, and three tokens of agent a that add up to 6."""
    elsewhere = {"x": (2.0, 5.0, 13.0), "a": (3.0, 6.0, 14.0)}

    def sum_moments(parts: Any) -> Any:
        return {key: type(part)(*map(sum, zip(part, elsewhere[key], strict=True))) for key, part in parts.items()}

    values, mask = pad([(1.0,), (3.0,)])
    rows = facts(0.0, 0.0)
    batch = UpdateBatch(rows, rows, mask, values, sum_moments=sum_moments)
    assert batch.group_moments([1.0, 3.0])["x"] == (4.0, 9.0, 23.0)
    deviation = ((1 + 9 + 14) / 5 - 2**2) ** 0.5  # five tokens that add up to 10
    torch.testing.assert_close(batch.normalize(values), torch.tensor([[-1 / deviation], [1 / deviation]]))


def test_a_critic_needs_targets() -> None:
    learner = PolicyGradient(policy(), Plain(), surrogate=SurrogateConfig(), critic=toy_config("ppo").critic)
    with pytest.raises(UsageError, match="Plain needs a method `value_targets`"):
        learner.update(toy_rows(policy()))


def test_ppo_without_values_says_where_they_come_from() -> None:
    batch = batch_of(as_json(toy_rows(policy())))
    estimator: Any = algorithm("ppo")
    without = UpdateBatch(batch.facts, batch.all_facts, batch.mask, batch.old_logprobs)
    with pytest.raises(UsageError, match="PPO needs a critic's values"):
        estimator.estimator().advantages(without)
