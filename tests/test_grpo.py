from __future__ import annotations

import logging
import math

import pytest
import torch

from waltz_env.algorithms.advantages import group_advantages, group_moments
from waltz_env.algorithms.grpo import GRPOConfig
from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.protocols import Sample
from waltz_env.algorithms.registry import with_settings

GROUPS = ["a", "b", "a", "a", "b", "c"]
REWARDS = [1.0, 0.5, 0.0, 0.5, 0.5, 7.0]


def test_advantages_are_in_standard_deviations_of_their_own_group() -> None:
    """Group a has mean 1/2 and population variance (1/4 + 1/4 + 0) / 3; b has no spread; c is one row."""
    found = group_advantages(GROUPS, REWARDS, moments=group_moments(GROUPS, REWARDS), scaled=True)
    unit = 0.5 / math.sqrt(1 / 6)
    assert found == pytest.approx([unit, 0, -unit, 0, 0, 0])


def test_without_scale_they_are_in_units_of_the_reward() -> None:
    found = group_advantages(GROUPS, REWARDS, moments=group_moments(GROUPS, REWARDS), scaled=False)
    assert found == pytest.approx([0.5, 0, -0.5, 0, 0, 0])


def test_the_deviation_is_at_least_1e_4() -> None:
    rewards = [0.5, 0.5 + 2e-6]
    found = group_advantages(["a", "a"], rewards, moments=group_moments(["a", "a"], rewards), scaled=True)
    assert found == pytest.approx([-0.01, 0.01], rel=1e-3)


def gradient(config: GRPOConfig, rows: list[tuple[tuple[int, ...], float]]) -> torch.Tensor:
    policy = ToyPolicy(torch.zeros(3, 3))
    samples = [Sample((0,), tokens, policy.logprobs((0,), tokens), r, "g", 0) for tokens, r in rows]
    config.build(policy).update(samples)
    assert policy.table.grad is not None
    return policy.table.grad


def test_the_gradient_weighs_each_token_by_its_rows_length_or_not() -> None:
    """Rows (1) paid 1 and (2, 2) paid 0: advantages +-1. d(-log pi) of the uniform softmax is p - onehot."""
    rows = [((1,), 1.0), ((2, 2), 0.0)]
    up, down = torch.tensor([1.0, -2.0, 1.0]) / 3, torch.tensor([1.0, 1.0, -2.0]) / 3
    plain = gradient(with_settings(GRPOConfig(), beta=0.0, max_grad_norm=1e9), rows)
    torch.testing.assert_close(plain[0], (up - down / 2) / 2)
    torch.testing.assert_close(plain[2], -down / 4)
    doctor = gradient(with_settings(GRPOConfig(), beta=0.0, max_grad_norm=1e9, scale="none", aggregation="sum"), rows)
    torch.testing.assert_close(doctor[0], (up - down) / 4)  # advantages +-1/2
    torch.testing.assert_close(doctor[2], -down / 4)


def test_the_penalty_is_k3_in_the_loss() -> None:
    """Its derivative at log-ratio d is 1 - exp(-d), here on one token of a policy that left its reference."""
    policy = ToyPolicy(torch.zeros(2, 2))
    with torch.no_grad():
        policy.table[0, 0] = 1.0
    logprob, reference = policy.logprobs((0,), (0,))[0], math.log(0.5)
    other = policy.logprobs((0,), (1,))[0]
    samples = [
        Sample((0,), (0,), (logprob,), 1.0, "g", 0),
        Sample((0,), (1,), (other,), 0.0, "g", 0),
    ]
    with_settings(GRPOConfig(), beta=2.0, max_grad_norm=1e9).build(policy).update(samples)
    p = math.exp(logprob)

    def slope(log_ratio: float, advantage: float) -> float:
        return -advantage + 2.0 * (1 - math.exp(-log_ratio))

    expected = (slope(logprob - reference, 1.0) * (1 - p) + slope(other - reference, -1.0) * -p) / 2
    assert policy.table.grad is not None
    assert policy.table.grad[0, 0].item() == pytest.approx(expected, rel=1e-5)


def test_rows_all_alone_in_their_groups_are_skipped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    policy = ToyPolicy(torch.zeros(3, 3))
    samples = [Sample((0,), (i,), policy.logprobs((0,), (i,)), float(i), i, 0) for i in range(3)]
    with caplog.at_level(logging.WARNING):
        metrics = GRPOConfig().build(policy).update(samples)
    assert (metrics["skipped"], metrics["lone_rows"]) == (1, 1)
    assert "branches" in caplog.text
    caplog.clear()
    metrics = GRPOConfig().build(policy).update([*samples, samples[0]])
    assert metrics["lone_rows"] == 0.5
    assert caplog.text == ""
