from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from waltz_env.algorithms.advantages import Moments, group_moments, normalize, returns_to_go, token_rewards
from waltz_env.algorithms.batches import pad

MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_the_reward_stands_on_the_last_token_of_each_row() -> None:
    assert token_rewards(torch.tensor([0.75, 1.0]), MASK).tolist() == [[0, 0, 0.75], [1, 0, 0]]


def test_a_token_is_credited_with_what_comes_from_it_on() -> None:
    penalized = torch.tensor([[-0.1, 0.2, 0.7], [0.5, 9.0, 9.0]])
    expected = torch.tensor([[0.8, 0.9, 0.7], [0.5, 0.0, 0.0]])
    torch.testing.assert_close(returns_to_go(penalized, MASK), expected)


def test_normalisation_is_over_all_tokens_of_all_rows_with_population_variance() -> None:
    values = torch.tensor([[1.0, 1.0, 1.0], [5.0, 99.0, 99.0]])  # mean 2, variance (1 + 1 + 1 + 9) / 4 = 3
    result = normalize(values, MASK, moments=Moments.of(values, MASK))
    unit = 3**-0.5
    torch.testing.assert_close(result, torch.tensor([[-unit, -unit, -unit], [3 * unit, 0, 0]]))


def test_the_variance_has_a_floor_of_1e_8() -> None:
    values, mask = torch.full((1, 2), 1.0), torch.ones(1, 2, dtype=torch.bool)
    assert normalize(values, mask, moments=Moments.of(values, mask)).tolist() == [[0.0, 0.0]]
    mean = 1 - 1e-4
    equal = Moments(2.0, 2 * mean, 2 * mean**2)  # variance 0; the values lie 1e-4 above the mean
    torch.testing.assert_close(normalize(values, mask, moments=equal), torch.ones(1, 2), rtol=1e-3, atol=0)


@given(st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=5), min_size=2, max_size=6))
def test_moments_of_parts_are_those_of_the_whole(rows: list[list[float]]) -> None:
    values, mask = pad(rows)
    whole = Moments.of(values, mask)
    parts = Moments.merge([Moments.of(values[:1], mask[:1]), Moments.of(values[1:], mask[1:])])
    assert parts == pytest.approx(whole, abs=1e-9)
    assert whole.size == sum(map(len, rows))


def test_the_moments_of_a_group_are_of_that_group_alone() -> None:
    moments = group_moments(["a", "b", "a", "c"], [1.0, 0.5, 0.0, 7.0])
    assert {group: each.mean for group, each in moments.items()} == {"a": 0.5, "b": 0.5, "c": 7.0}
    assert moments["a"].deviation == 0.5
    assert moments["b"].deviation == pytest.approx(1e-4)
