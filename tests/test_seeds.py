from __future__ import annotations

import math

import pytest

from waltz_env.evaluation.seeds import mean_interval, paired_interval


def test_the_interval_is_students() -> None:
    """Five values, mean 3, deviation sqrt(2.5): 3 +- 2.776 sqrt(2.5 / 5), with t(0.975, 4) = 2.776."""
    found = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.mean, found.n) == (3.0, 5)
    assert found.high == pytest.approx(3 + 2.7764 * 0.5**0.5, abs=1e-3)
    assert found.low == pytest.approx(3 - 2.7764 * 0.5**0.5, abs=1e-3)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert mean_interval([0.5]).mean == 0.5
    assert math.isnan(mean_interval([0.5]).low)
    assert math.isnan(mean_interval([]).mean)


def test_pairs_are_the_seeds_that_both_have() -> None:
    found = paired_interval({0: 0.5, 1: 0.7, 3: 9.0}, {0: 0.4, 1: 0.6, 2: -9.0})
    assert found.n == 2
    assert found.mean == pytest.approx(0.1)
    assert found.high - found.low == pytest.approx(0.0, abs=1e-9)
