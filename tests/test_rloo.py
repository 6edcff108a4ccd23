from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.learners import random_table, row
from waltz_env.algorithms.advantages import group_moments, leave_one_out
from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.registry import with_settings
from waltz_env.algorithms.rloo import RLOOConfig


def test_the_baseline_is_the_mean_of_the_others_of_the_group() -> None:
    groups, rewards = ["a", "a", "b", "a", "c", "b"], [1.0, 0.0, 2.0, 0.5, 9.0, 1.0]
    found = leave_one_out(groups, rewards, moments=group_moments(groups, rewards))
    assert found == pytest.approx([1 - 0.25, 0 - 0.75, 1.0, 0.5 - 0.5, 0.0, -1.0])


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8))
def test_no_rows_baseline_depends_on_its_own_reward(rewards: list[float]) -> None:
    groups = [0] * len(rewards)
    before = leave_one_out(groups, rewards, moments=group_moments(groups, rewards))[0]
    raised = [rewards[0] + 1, *rewards[1:]]
    after = leave_one_out(groups, raised, moments=group_moments(groups, raised))[0]
    assert after - before == pytest.approx(1, abs=1e-9)


def test_the_gradient_is_that_of_the_penalized_reward() -> None:
    """All n sequences of a uniform policy are the expectation; leave-one-out scales it by n / (n - 1)."""
    size, length, beta = 3, 2, 0.3
    reference = random_table(size, 1)
    policy = ToyPolicy(torch.zeros(size, size), reference=reference)
    sequences = list(product(range(size), repeat=length))
    rewards = torch.randn(len(sequences), generator=torch.Generator().manual_seed(2))
    samples = [row(policy, (0,), tokens, float(r)) for tokens, r in zip(sequences, rewards, strict=True)]

    table = torch.zeros(size, size).requires_grad_()
    objective = torch.zeros(())
    for (first, second), reward in zip(sequences, rewards, strict=True):
        logprob = table.log_softmax(-1)[0, first] + table.log_softmax(-1)[first, second]
        fixed = reference.log_softmax(-1)[0, first] + reference.log_softmax(-1)[first, second]
        objective = objective + logprob.exp() * (reward - beta * (logprob - fixed))
    exact = torch.autograd.grad(objective, table)[0]

    with_settings(RLOOConfig(), beta=beta, max_grad_norm=1e9).build(policy).update(samples)
    n = len(sequences)
    assert policy.table.grad is not None
    torch.testing.assert_close(policy.table.grad, -exact * n / (n - 1), rtol=1e-4, atol=1e-6)
