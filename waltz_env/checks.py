"""Checks of settings: what was expected, what came."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection

from waltz_env.errors import UsageError, UsageTypeError, unknown_name


def check_integer(name: str, value: object, *, at_least: int) -> None:
    """Check that ``value`` is an integer, of Python or NumPy, and not too small.

    Raises:
        UsageTypeError: it is not an integer.
        UsageError: it is below ``at_least``.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # what is not an integer is the question
    except TypeError:
        raise UsageTypeError(f"{name} must be an integer; got {value!r}.") from None
    if number < at_least:
        raise UsageError(f"{name} must be {at_least} or more; got {number}.")


def check_index(name: str, value: object, size: int) -> int:
    """Check that ``value`` is an index into something of length ``size``, not counting from the end, and return it.

    Raises:
        UsageTypeError: it is not an integer.
        UsageError: it is out of range.
    """
    try:
        index = operator.index(value)  # type: ignore[arg-type]  # what is not an integer is the question
    except TypeError:
        raise UsageTypeError(
            f"{name} must be an index from 0 to {size - 1}; got {value!r} ({type(value).__name__})."
        ) from None
    if not 0 <= index < size:
        raise UsageError(f"{name} must be an index from 0 to {size - 1}; got {index}.")
    return index


def check_number(
    name: str,
    value: float,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Check that ``value`` is a finite number within ``[low, high]`` and within ``(above, below)``.

    >>> check_number("decay", 1.0, low=0, below=1)
    Traceback (most recent call last):
    waltz_env.errors.UsageError: decay must be a finite number, at least 0 and below 1; got 1.0.

    Raises:
        UsageTypeError: it is not a number.
        UsageError: it is not finite or lies outside.
    """
    try:
        finite = math.isfinite(value)
    except TypeError:
        raise UsageTypeError(f"{name} must be a number; got {value!r}.") from None
    if not (finite and low <= value <= high and above < value < below):
        limits = [("at least", low), ("at most", high), ("above", above), ("below", below)]
        bounds = " and ".join(f"{words} {limit:g}" for words, limit in limits if math.isfinite(limit))
        raise UsageError(f"{name} must be a finite number{', ' * bool(bounds)}{bounds}; got {value!r}.")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Check that ``value`` is one of ``choices``.

    Raises:
        UsageError: it is not; the nearest choice is suggested.
    """
    if value not in choices:
        raise unknown_name(name, str(value), choices)
