"""Checks of settings: what was expected, what came."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from waltz_env.errors import UsageError, UsageTypeError, unknown_name
from waltz_env.plain import plain_bool, plain_float, plain_int


def check_settings(settings: Any) -> None:
    """Check every field of a frozen dataclass against its declared type; the first line of ``__post_init__``.

    Scalars of NumPy and torch become Python's own, and sequences become tuples where tuples are declared. Fields of
    other types than bools, numbers, strings, tuples, mappings, enums and dataclasses are left to the caller.

    Raises:
        UsageTypeError: a field has another type than declared; a bool is not a number here.
        UsageError: a number is NaN, or a tuple has the wrong length.
    """
    kind: Any = type(settings)
    hints = _hints(kind)
    for field in fields(settings):
        value, hint = getattr(settings, field.name), hints.get(field.name, Any)
        if type(value) is hint and (hint is not float or value == value):  # the usual case, fast; NaN is not itself
            continue
        fitting = _fitting(field.name, value, hint)
        if fitting is not value:
            object.__setattr__(settings, field.name, fitting)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """The declared types; without those of a class that names what only its function or a type checker knows."""
    hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if is_dataclass(base):
            try:
                hints |= get_type_hints(base)
            except NameError:
                continue
    return hints


def _fitting(name: str, value: Any, hint: Any) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _one_of(name, value, parts)
    if hint is bool:
        return plain_bool(name, value)
    if hint is int:
        return plain_int(name, value)
    if hint is float:
        return _number(name, value)
    if origin is tuple:
        return _tuple(name, value, parts)
    expected: tuple[type, ...] = ()
    if hint is str or hint is NoneType or (isinstance(hint, type) and (is_dataclass(hint) or issubclass(hint, Enum))):
        expected = (hint,)
    elif origin is Literal:  # which of them: check_choice, which suggests the nearest
        expected = tuple({type(part) for part in parts})
    elif origin is Mapping:
        expected = (Mapping,)
    if expected and not isinstance(value, expected):
        names = " or ".join(sorted({"str": "string"}.get(kind.__name__, kind.__name__) for kind in expected))
        raise UsageTypeError(f"{name} must be of type {names}; got {value!r} ({type(value).__name__}).")
    return value


def _one_of(name: str, value: Any, hints: Sequence[Any]) -> Any:
    if value is None and NoneType in hints:
        return None
    *others, last = (hint for hint in hints if hint is not NoneType)
    for hint in others:
        try:
            return _fitting(name, value, hint)
        except UsageTypeError:
            continue
    return _fitting(name, value, last)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool):
        raise UsageTypeError(f"{name} must be a number; got {value!r}.")
    number = plain_float(name, value)
    if math.isnan(number):
        raise UsageError(f"{name} must be a number; got {value!r}.")
    return value if type(value) in (int, float) else number


def _tuple(name: str, value: Any, hints: Sequence[Any]) -> tuple[Any, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise UsageTypeError(f"{name} must be a tuple; got {value!r} ({type(value).__name__}).")
    kinds = [hints[0]] * len(value) if hints[1:] == (...,) else hints
    if len(kinds) != len(value):
        raise UsageError(f"{name} must have {len(kinds)} values; got {value!r}.")
    items = tuple(_fitting(f"Each of {name}", item, kind) for item, kind in zip(value, kinds, strict=True))
    return value if isinstance(value, tuple) and all(a is b for a, b in zip(value, items, strict=True)) else items


def check_integer(name: str, value: object, *, at_least: int) -> None:
    """Check that ``value`` is an integer, of Python or NumPy, and not too small.

    Raises:
        UsageTypeError: it is not an integer.
        UsageError: it is below ``at_least``.
    """
    number = plain_int(name, value)
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


def check_seed(seed: object) -> int:
    """Check that ``seed`` is an integer, of Python or NumPy, from 0 up, and return it as Python's.

    Raises:
        UsageTypeError: it is not an integer.
        UsageError: it is below 0.
    """
    check_integer("seed", seed, at_least=0)
    return plain_int("seed", seed)


def check_duration(name: str, seconds: object) -> None:
    """Check that ``seconds`` is a number above 0; infinity is no limit.

    Raises:
        UsageTypeError: it is not a number.
        UsageError: it is NaN, or not above 0.
    """
    if not _number(name, seconds) > 0:
        raise UsageError(f"{name} must be above 0; got {seconds}.")


def check_mapping(name: str, value: object, *, such_as: str) -> None:
    """Check that ``value`` is a mapping.

    Raises:
        UsageTypeError: it is not; the message shows ``such_as``.
    """
    if not isinstance(value, Mapping):
        raise UsageTypeError(f"{name} must be a mapping such as {such_as}; got {value!r:.60} ({type(value).__name__}).")


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
    if isinstance(value, bool):
        raise UsageTypeError(f"{name} must be a number; got {value!r}.")
    finite = math.isfinite(plain_float(name, value))
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


def check_distinct(names: Sequence[str], what: str) -> None:
    """Check that names, which become names of files, are different.

    Raises:
        UsageError: two are equal.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"Two {what} would both be called {', '.join(twice)}; rename a folder or a file.")
