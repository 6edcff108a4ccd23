"""Losses, KL estimates and batches, against numbers by hand and against enumeration."""

from __future__ import annotations

import itertools
import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.learners import random_table, row
from waltz_env.algorithms.advantages import returns_to_go, token_rewards
from waltz_env.algorithms.batches import (
    collate,
    completion_logits,
    microbatches,
    pad,
    token_entropy,
    token_logprobs,
)
from waltz_env.algorithms.losses import clipped_surrogate, kl_estimate, probability_ratio, token_weights
from waltz_env.algorithms.optimizer import schedule_factor
from waltz_env.algorithms.probes.toy_policy import ToyPolicy

CPU = torch.device("cpu")


def test_the_clip_takes_the_pessimistic_side() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    expected = torch.tensor([-1.2, 1.5, -0.5, 0.8, -2.2])
    torch.testing.assert_close(clipped_surrogate(ratio, advantages, clip=0.2), expected)


def test_the_log_ratio_is_clamped_to_20() -> None:
    ratio = probability_ratio(torch.tensor([0.0, -50.0, math.log(0.5)]), torch.tensor([-50.0, 0.0, 0.0]))
    torch.testing.assert_close(ratio, torch.tensor([math.exp(20), math.exp(-20), 0.5]))


def test_sequences_or_tokens_weigh_equally() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    by_sequence = token_weights(mask, "sequence", rows=2, tokens=4)
    torch.testing.assert_close(by_sequence, torch.tensor([[1 / 6, 1 / 6, 1 / 6], [1 / 2, 0, 0]]))
    assert token_weights(mask, "token", rows=2, tokens=4).tolist() == [[0.25, 0.25, 0.25], [0.25, 0, 0]]
    assert token_weights(mask, "token", rows=4, tokens=8)[0, 0] == 0.125  # half of a larger step


def test_kl_estimates_by_hand() -> None:
    logprobs, reference = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert kl_estimate(logprobs, reference, estimate="k1").item() == pytest.approx(math.log(2))
    assert kl_estimate(logprobs, reference, estimate="k2").item() == pytest.approx(math.log(2) ** 2 / 2)
    assert kl_estimate(logprobs, reference, estimate="k3").item() == pytest.approx(0.5 - 1 + math.log(2))


@given(st.floats(-60, 0), st.floats(-60, 0))
def test_kl_estimates_are_bounded_and_k3_is_never_negative(logprob: float, reference: float) -> None:
    pair = torch.tensor([logprob]), torch.tensor([reference])
    assert -10 <= kl_estimate(*pair, estimate="k1").item() <= 10
    assert 0 <= kl_estimate(*pair, estimate="k2").item() <= 10
    assert -1e-6 <= kl_estimate(*pair, estimate="k3").item() <= 10


def exact_kl(table: Tensor, reference: Tensor) -> Tensor:
    """KL(softmax(table) || softmax(reference)) of one distribution."""
    return (table.softmax(-1) * (table.log_softmax(-1) - reference.log_softmax(-1))).sum()


def test_k1_and_k3_are_unbiased_by_enumeration() -> None:
    table, reference = random_table(4)[0].double(), random_table(4)[1].double()
    for estimate in ("k1", "k3"):
        values = kl_estimate(table.log_softmax(-1), reference.log_softmax(-1), estimate=estimate)
        torch.testing.assert_close((table.softmax(-1) * values).sum(), exact_kl(table, reference))


def gradient(value: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(value, of)[0]


def test_the_gradient_of_each_estimator_by_enumeration() -> None:
    """Sampled tokens are constants: the expectation is over fixed probabilities."""
    table = random_table(4)[0].double().requires_grad_()
    reference = random_table(4)[1].double()
    probabilities = table.detach().softmax(-1)
    of_kl = gradient(exact_kl(table, reference), table)
    of_reverse = gradient(exact_kl(reference, table), table)

    def expected(estimate: str) -> Tensor:
        values = kl_estimate(table.log_softmax(-1), reference.log_softmax(-1), estimate=estimate)  # type: ignore[arg-type]
        return gradient((probabilities * values).sum(), table)

    torch.testing.assert_close(expected("k1"), torch.zeros_like(of_kl), rtol=0, atol=1e-12)
    torch.testing.assert_close(expected("k2"), of_kl)
    torch.testing.assert_close(expected("k3"), of_reverse)


def test_the_gradient_of_reward_less_penalty_by_enumeration() -> None:
    """The surrogate on returns-to-go has the gradient of E[R] - beta KL over whole sequences."""
    size, length, beta = 3, 2, 0.3
    table = random_table(size, 1).double().requires_grad_()
    reference = random_table(size, 2).double()
    sequences = torch.tensor(list(product(range(size), repeat=length)))
    rewards = torch.randn(len(sequences), generator=torch.Generator().manual_seed(3)).double()
    before = torch.cat([torch.zeros(len(sequences), 1, dtype=torch.long), sequences[:, :-1]], dim=1)

    def logprobs(of: Tensor) -> Tensor:
        return of.log_softmax(-1)[before, sequences]

    probabilities = logprobs(table).sum(1).exp()
    log_ratio = (logprobs(table) - logprobs(reference)).sum(1)
    exact = gradient((probabilities * (rewards - beta * log_ratio)).sum(), table)

    old, mask = logprobs(table).detach(), torch.ones_like(sequences, dtype=torch.bool)
    penalized = token_rewards(rewards, mask) - beta * kl_estimate(old, logprobs(reference), estimate="k1")
    ratio = probability_ratio(logprobs(table), old)
    losses = clipped_surrogate(ratio, returns_to_go(penalized, mask), clip=0.2)
    torch.testing.assert_close(gradient(-(probabilities.detach() * losses.sum(1)).sum(), table), exact)


def test_batches_pad_rows_on_the_right_and_read_before_each_sampled_token() -> None:
    policy = ToyPolicy(random_table(10))
    samples = [row(policy, (1, 2, 3), (4,), 0.0), row(policy, (5, 6), (7, 8, 9), 0.0)]
    batch = collate(samples, [1, 0], device=CPU)
    assert batch.rows.tolist() == [1, 0]
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9], [1, 2, 3, 4, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert batch.targets.tolist() == [[7, 8, 9], [4, 0, 0]]
    assert batch.mask.tolist() == [[True, True, True], [True, False, False]]
    # The last four positions: the first that predicts a sampled token is the second of row 1.
    assert batch.reads.tolist() == [[True, True, True, False], [False, True, False, False]]


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_microbatches_keep_every_row_once_and_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = microbatches(lengths, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget


def padded(groups: list[list[int]], lengths: list[int]) -> int:
    """Cost of the groups: their padded tokens, and 400 for each."""
    return sum(400 + len(group) * max(lengths[i] for i in group) for group in groups)


@given(st.lists(st.integers(1, 900), min_size=1, max_size=7), st.sampled_from([500, 2000, 10_000]))
def test_no_other_microbatches_of_sorted_rows_have_less_padding(lengths: list[int], budget: int) -> None:
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    costs = []
    for cuts in itertools.product([False, True], repeat=len(order) - 1):
        groups = [[order[0]]]
        for i, cut in zip(order[1:], cuts, strict=True):
            groups.append([i]) if cut else groups[-1].append(i)
        if all(len(group) == 1 or len(group) * lengths[group[-1]] <= budget for group in groups):
            costs.append(padded(groups, lengths))
    assert padded(microbatches(lengths, budget), lengths) == min(costs)


def test_padding_restores_rows_of_any_length() -> None:
    values, mask = pad([(1.0, 2.0), (3.0,)])
    assert values.tolist() == [[1, 2], [3, 0]]
    assert mask.tolist() == [[True, True], [True, False]]
    assert pad([])[0].shape == (0, 0)


def test_logprobs_and_entropy_are_of_the_distribution_at_the_temperature() -> None:
    table = torch.log(torch.tensor([[0.64, 0.16, 0.2], [1, 1, 1], [1, 1, 1]]))
    policy = ToyPolicy(table, temperature=2.0)  # square roots .8, .4, .447 over their sum
    logits = completion_logits(policy, collate([row(policy, (0,), (1, 0), 0.0)], [0], device=CPU))
    total = 0.8 + 0.4 + math.sqrt(0.2)
    logprobs = token_logprobs(logits, torch.tensor([1, 0]))
    torch.testing.assert_close(logprobs, torch.tensor([math.log(0.4 / total), math.log(1 / 3)]))
    p = [0.8 / total, 0.4 / total, math.sqrt(0.2) / total]
    expected = -sum(q * math.log(q) for q in p)
    torch.testing.assert_close(token_entropy(logits), torch.tensor([expected, math.log(3)]))


def test_the_gradient_of_a_logprob_is_the_token_less_all_probabilities() -> None:
    logits = torch.tensor([[0.64, 0.16, 0.2], [0.25, 0.25, 0.5]]).log().requires_grad_()
    (token_logprobs(logits, torch.tensor([1, 2])) * torch.tensor([1.0, -2.0])).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.64, 0.84, -0.2], [0.5, 0.5, -1.0]]))


def test_the_entropy_of_more_words_than_a_cache_holds() -> None:
    torch.testing.assert_close(token_entropy(torch.zeros(3, 2**20 + 1)), torch.full((3,), math.log(2**20 + 1)))


def test_the_learning_rate_warms_up_and_falls() -> None:
    factors = [schedule_factor(step, "linear", warmup_steps=1, total_steps=4) for step in range(6)]
    assert factors == [0.5, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert [schedule_factor(step, "constant", warmup_steps=3) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
