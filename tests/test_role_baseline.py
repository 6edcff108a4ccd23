from __future__ import annotations

import pytest
import torch

from tests.learners import toy_config
from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.protocols import Sample
from waltz_env.algorithms.registry import with_settings
from waltz_env.algorithms.role_baseline import MovingAverages, RoleBaselineConfig
from waltz_env.algorithms.update_batch import SampleFacts


def row(agent: str, turn: int, reward: float) -> SampleFacts:
    return SampleFacts(agent, turn, group=0, reward=reward, tokens=1, version=0)


def test_each_agent_and_turn_has_an_average_of_its_own() -> None:
    averages = MovingAverages(0.9)
    averages.follow([row("A", 0, 1.0), row("A", 0, 0.0), row("A", 1, 0.25), row("B", 0, -1.0)])
    assert averages["A", 0] == pytest.approx(0.5)
    assert averages["A", 1] == pytest.approx(0.25)
    assert averages["B", 0] == pytest.approx(-1.0)


def test_later_batches_move_it_by_what_it_forgets() -> None:
    """Means 1, 0: 0.9 * 0.1 * 1 + 0.1 * 0 = 0.09, over 1 - 0.9^2 = 0.19."""
    averages = MovingAverages(0.9)
    averages.follow([row("A", 0, 1.0)])
    averages.follow([row("A", 0, 0.5), row("A", 0, -0.5)])
    assert averages["A", 0] == pytest.approx(0.09 / 0.19)
    averages.follow([row("A", 1, 7.0)])
    assert averages["A", 0] == pytest.approx(0.09 / 0.19)


def rows(policy: ToyPolicy, rewards: tuple[float, float]) -> list[Sample]:
    return [
        Sample((0,), (i,), policy.logprobs((0,), (i,)), reward, 0, policy.version, "A")
        for i, reward in enumerate(rewards)
    ]


def test_a_batch_that_is_all_better_than_before_has_something_to_teach() -> None:
    policy = ToyPolicy(torch.zeros(3, 3))
    learner = toy_config("role-baseline", beta=0.0).build(policy)
    assert learner.update(rows(policy, (0.0, 0.0)))["skipped"] == 1
    metrics = learner.update(rows(policy, (1.0, 1.0)))
    assert metrics["skipped"] == 0
    assert metrics["baseline"] == pytest.approx(0.05 / (1 - 0.95**2))
    assert policy.table.grad is not None
    assert policy.table.grad[0, :2].max() < 0  # both are raised, at the cost of the token that was not said
    assert policy.table.grad[0, 2] > 0


def test_the_baselines_survive_a_checkpoint() -> None:
    policy = ToyPolicy(torch.zeros(3, 3))
    config = with_settings(RoleBaselineConfig(), beta=0.0, learning_rate=0.1)
    first = config.build(policy)
    first.update(rows(policy, (1.0, 0.0)))
    second = config.build(policy)
    second.load_state_dict(first.state_dict())
    assert second.state_dict().keys() == first.state_dict().keys()
    expected = (0.95 * 0.05 * 0.5 + 0.05 * 0.6) / (1 - 0.95**2)
    assert second.update(rows(policy, (0.5, 0.7)))["baseline"] == pytest.approx(expected)
