"""From what was found out about each response of a batch to what ``Judge.judge`` returns or raises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from waltz_env.errors import JudgeError, UsageError
from waltz_env.types import Judgement, Prompt


@dataclass(frozen=True, slots=True)
class NoVerdict:
    """Why there is no verdict on one response."""

    reason: str


def paired(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[tuple[Prompt, str]]:
    """Each response with its prompt.

    Raises:
        UsageError: there are more prompts than responses, or fewer.
    """
    if len(prompts) != len(responses):
        raise UsageError(
            f"Each response needs its prompt, in order; got {len(prompts)} prompts and {len(responses)} responses."
        )
    return list(zip(prompts, responses, strict=True))


def all_or_raise(judge: str, outcomes: Sequence[Judgement | NoVerdict]) -> list[Judgement]:
    """The verdicts of a whole batch.

    Raises:
        JudgeError: some are missing; it carries the others and says why the first is missing.
    """
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, NoVerdict)]
    if reasons:
        raise JudgeError(
            f"The judge {judge} has no verdict on {len(reasons)} of {len(outcomes)} responses. The first: {reasons[0]}",
            [outcome if isinstance(outcome, Judgement) else None for outcome in outcomes],
        )
    return [outcome for outcome in outcomes if isinstance(outcome, Judgement)]


def unreadable(answer: str, expected: str) -> NoVerdict:
    """For a judge model that said something else."""
    return NoVerdict(f"it answered {answer[:80]!r}, and {expected} was expected.")
