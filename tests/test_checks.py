from __future__ import annotations

import math

import numpy as np
import pytest

from waltz_env.checks import check_choice, check_index, check_integer, check_number
from waltz_env.errors import UsageError, UsageTypeError


def test_integers_of_python_and_numpy_pass() -> None:
    check_integer("steps", 3, at_least=3)
    check_integer("steps", np.int64(3), at_least=0)


def test_what_is_not_an_integer_or_is_too_small_is_refused_by_name() -> None:
    with pytest.raises(UsageTypeError, match="steps must be an integer; got 1.0"):
        check_integer("steps", 1.0, at_least=0)
    with pytest.raises(UsageError, match="steps must be 1 or more; got 0"):
        check_integer("steps", 0, at_least=1)


def test_an_index_is_an_integer_from_0_to_below_the_size() -> None:
    assert check_index("choice", np.int64(1), 2) == 1
    with pytest.raises(UsageTypeError, match=r"choice must be an index from 0 to 1; got '1' \(str\)"):
        check_index("choice", "1", 2)
    for index in (-1, 2):
        with pytest.raises(UsageError, match=f"choice must be an index from 0 to 1; got {index}"):
            check_index("choice", index, 2)


def test_bounds_are_inclusive_or_exclusive() -> None:
    check_number("share", 0.0, low=0, high=1)
    check_number("share", 1, low=0, high=1)
    check_number("rate", -5.0)
    with pytest.raises(UsageError, match="clip must be a finite number, above 0; got 0.0"):
        check_number("clip", 0.0, above=0)
    with pytest.raises(UsageError, match="decay must be a finite number, at least 0 and below 1; got 1.0"):
        check_number("decay", 1.0, low=0, below=1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_must_be_finite_even_without_bounds(value: float) -> None:
    with pytest.raises(UsageError, match="rate must be a finite number; got"):
        check_number("rate", value)


def test_what_is_not_a_number_is_refused_by_name() -> None:
    with pytest.raises(UsageTypeError, match="rate must be a number; got 'fast'"):
        check_number("rate", "fast")  # type: ignore[arg-type]


def test_an_unknown_choice_suggests_the_nearest() -> None:
    check_choice("schedule", "linear", ("constant", "linear"))
    with pytest.raises(UsageError, match="Did you mean 'linear'"):
        check_choice("schedule", "linar", ("constant", "linear"))
