"""Plain values: what judges and agents of one's own return, and settings, as Python's own bools, numbers and strings.

Games and settings are compared, written and read again, so they must not hold ``numpy.bool_``, ``numpy.float32`` or
tensors.
These functions make plain values of what clearly is one, and refuse everything else:

| expected          | also taken                                                                              |
|-------------------|-----------------------------------------------------------------------------------------|
| bool              | the integers 0 and 1; scalars of NumPy, torch and others that hold a bool, 0 or 1       |
| int               | every integer of ``operator.index``, and scalars that hold one; no bool                 |
| float             | integers, bools, fractions, decimals; scalars that hold one of them; NaN and infinities |

What is plain already comes back as the same object, at the price of a few comparisons.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, get_args

from waltz_env.errors import UsageError, UsageTypeError
from waltz_env.types import Completion, Finish, Judgement, Labels, NoVerdict, Usage

_FINISHES = get_args(Finish)


def plain_judgement(outcome: Any) -> Judgement | NoVerdict:
    """What a judge returned for one response, with plain bools and floats.

    Raises:
        UsageTypeError: it is neither a ``Judgement`` nor a ``NoVerdict``, or one of its fields has the wrong type; the
            message names the field.
    """
    if isinstance(outcome, NoVerdict):
        _string("NoVerdict.reason", outcome.reason)
        return outcome
    if not isinstance(outcome, Judgement):
        raise UsageTypeError(f"expected a Judgement, or NoVerdict(reason) where there is none; got {_short(outcome)}.")
    labels, scores = _labels(outcome.labels), outcome.scores
    _string("Judgement.judge", outcome.judge)
    _string("Judgement.rationale", outcome.rationale)
    if scores or type(scores) is not dict:
        scores = _scores(scores)
    if labels is outcome.labels and scores is outcome.scores:
        return outcome
    return replace(outcome, labels=labels, scores=scores)


def plain_completion(completion: Any) -> Completion:
    """What an agent returned for one observation, with plain integers and floats in tuples.

    Raises:
        UsageTypeError: it is not a ``Completion``, or one of its fields has the wrong type; the message names the
            field.
    """
    if not isinstance(completion, Completion):
        raise UsageTypeError(f"expected a Completion; got {_short(completion)}.")
    if completion.finish not in _FINISHES:
        expected = ", ".join(map(repr, _FINISHES))
        raise UsageTypeError(f"Completion.finish must be one of {expected}; got {_short(completion.finish)}.")
    if completion.usage is not None and not isinstance(completion.usage, Usage):
        raise UsageTypeError(f"Completion.usage must be a Usage, or None; got {_short(completion.usage)}.")
    changed: dict[str, Any] = {}
    numbers = (("prompt_ids", int, plain_int), ("token_ids", int, plain_int), ("logprobs", float, plain_float))
    for name, kind, convert in numbers:
        values = getattr(completion, name)
        if values is not None and not (type(values) is tuple and set(map(type, values)) <= {kind}):
            items = _items(f"Completion.{name}", values)
            changed[name] = tuple(convert(f"Completion.{name}", item) for item in items)
    if type(completion.version) is not int:
        changed["version"] = plain_int("Completion.version", completion.version)
    plain = replace(completion, **changed) if changed else completion
    if plain.logprobs is not None and len(plain.logprobs) != len(plain.token_ids or ()):
        raise UsageTypeError(
            f"Completion.logprobs must hold one number for each of token_ids; got {len(plain.logprobs)} numbers for "
            f"{len(plain.token_ids or ())} ids."
        )
    return plain


def one_each(agent: str, completions: Any, count: int) -> list[Any]:
    """What an agent returned for a batch, as a list with one item for each observation.

    Args:
        agent: what the message calls the agent.
        completions: what it returned.
        count: number of observations.

    Raises:
        UsageTypeError: it is not a sequence.
        UsageError: it has another length.
    """
    if isinstance(completions, str | bytes | Mapping) or not isinstance(completions, Iterable):
        raise UsageTypeError(
            f"The agent {agent!r} must return one completion for each observation; got {_short(completions)}."
        )
    listed = list(completions)
    if len(listed) != count:
        raise UsageError(
            f"The agent {agent!r} was given {count} observations and answered with {len(listed)} completions; it must "
            "give one for each, in order."
        )
    return listed


def _labels(labels: Any) -> Labels:
    if not isinstance(labels, Labels):
        raise UsageTypeError(
            f"Judgement.labels must be Labels(unsafe=..., overrefuse=...); got {_short(labels)}. Return "
            "NoVerdict(reason) where there are none."
        )
    if {type(labels.unsafe), type(labels.overrefuse)} == {bool}:
        return labels
    return Labels(plain_bool("labels.unsafe", labels.unsafe), plain_bool("labels.overrefuse", labels.overrefuse))


def _scores(scores: Any) -> Mapping[str, float]:
    if not isinstance(scores, Mapping):
        raise UsageTypeError(f"Judgement.scores must map names to numbers; got {_short(scores)}.")
    for name in scores:
        _string("a name in Judgement.scores", name)
    if type(scores) is dict and all(type(score) is float for score in scores.values()):
        return scores
    return {name: plain_float(f"scores[{name!r}]", score) for name, score in scores.items()}


def plain_bool(name: str, value: Any) -> bool:
    """``value`` as a bool.

    Raises:
        UsageTypeError: it is not one; the message begins with ``name``.
    """
    scalar = _scalar(value)
    if type(scalar) is bool or (type(scalar) is int and scalar in (0, 1)):
        return bool(scalar)
    raise UsageTypeError(f"{name} must be True or False; got {_short(value)}.")


def plain_int(name: str, value: Any) -> int:
    """``value`` as an integer.

    Raises:
        UsageTypeError: it is not one; the message begins with ``name``.
    """
    scalar = _scalar(value)
    try:
        if not isinstance(scalar, bool):
            return int(operator.index(scalar))
    except TypeError:
        pass
    raise UsageTypeError(f"{name} must be an integer; got {_short(value)}.")


def plain_float(name: str, value: Any) -> float:
    """``value`` as a float.

    Raises:
        UsageTypeError: it is not a number; the message begins with ``name``.
    """
    scalar = _scalar(value)
    try:
        if hasattr(type(scalar), "__float__") or hasattr(type(scalar), "__index__"):  # a string has neither
            return float(scalar)
    except (TypeError, ValueError, OverflowError):
        pass
    raise UsageTypeError(f"{name} must be a number; got {_short(value)}.")


def _scalar(value: Any) -> Any:
    """The Python object in a scalar of NumPy, torch, JAX and the like; None for larger arrays."""
    dimensions = getattr(value, "ndim", None)
    if dimensions is None:
        return value
    return value.item() if dimensions == 0 else None


def _items(name: str, values: Any) -> Iterable[Any]:
    """The elements of a list, an array or a tensor of one dimension."""
    if not isinstance(values, str | bytes | Mapping):
        try:
            return list(values)
        except TypeError:
            pass
    raise UsageTypeError(f"{name} must be a tuple of numbers; got {_short(values)}.")


def _string(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise UsageTypeError(f"{name} must be a string; got {_short(value)}.")


def _short(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
