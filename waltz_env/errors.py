"""The package's errors: one root and a few children, each of them also the built-in error that a caller expects."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

AgentFailure = Literal["error", "timeout", "unavailable", "overloaded", "malformed", "too_long", "unreadable"]


class WaltzError(Exception):
    """The root of all errors that this package raises on purpose."""


class UsageError(WaltzError, ValueError):
    """A call or a setting that cannot work: wrong value, wrong order, unknown name."""


class UsageTypeError(WaltzError, TypeError):
    """A value of the wrong type, such as an action that is not a string."""


class DataError(WaltzError, ValueError):
    """A file that does not hold what it should; the message names the file and the line."""


class CheckpointError(WaltzError, ValueError):
    """A checkpoint that is missing, incomplete or from a run with other settings."""


class JudgeError(WaltzError, RuntimeError):
    """A judge has no verdict on any response of its batch, after its own retries.

    A judge that has no verdict on some of the responses returns ``NoVerdict`` in their place and raises nothing.

    Args:
        message: what failed and what to do; it becomes the reason that each response of the batch has no verdict.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)


class AgentError(WaltzError, RuntimeError):
    """An agent produced no completion for part or all of a batch, after its own retries.

    Args:
        message: what failed, for how many observations, and what to do. Never what a user or an agent wrote.
        kind: ``"timeout"``, ``"unavailable"`` (nothing answers: later may work), ``"overloaded"`` (too many requests:
            later may work) or ``"error"``; see also ``UnreadablePromptError``.
        partial: the batch in order, with ``None`` where there is no completion. Empty: the whole batch failed.
    """

    def __init__(self, message: str, *, kind: AgentFailure = "error", partial: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.kind = kind
        self.partial = tuple(partial)


class UnreadablePromptError(AgentError):
    """A model cannot read some prompts of a batch as they are; nothing is cut or left out silently.

    ``play(..., exclude_unreadable=True)`` leaves the games on such prompts out.

    Args:
        message: what cannot be read, and what to do. Never what a user or an agent wrote.
        kind: ``"too_long"`` for the model's context, or ``"unreadable"``, refused by its chat template.
        rows: positions of these prompts in the batch.
        partial: as in ``AgentError``; empty if the agent has not acted on the other prompts either.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: Literal["too_long", "unreadable"],
        rows: Iterable[int],
        partial: Sequence[Any] = (),
    ) -> None:
        super().__init__(message, kind=kind, partial=partial)
        self.kind: Literal["too_long", "unreadable"] = kind
        self.rows = tuple(rows)


class DivergedError(WaltzError, ArithmeticError):
    """A model computes NaN or infinity. Nothing that it would say may be scored or learned from."""


class ProcessError(WaltzError, RuntimeError):
    """Another process of the run has ended, so the ones that are left cannot go on."""


class SyncError(WaltzError, RuntimeError):
    """A sampler does not hold the weights that it should: its samples would not be the policy's."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not among ``known``; it suggests the nearest one."""
    known = sorted(known)
    return UsageError(f"Unknown {what} {name!r}.{did_you_mean(name, known)} Known: {', '.join(known) or 'none'}.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that suggests the known name nearest to ``name``, after a space; empty if none is near.

    >>> did_you_mean("wildgard", ["rules", "wildguard"])
    " Did you mean 'wildguard'?"
    """
    near = difflib.get_close_matches(name, sorted(map(str, known)), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
