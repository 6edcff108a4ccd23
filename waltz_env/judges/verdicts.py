"""What several judges share: pairing prompts with responses, and judging by a model's answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from waltz_env.errors import UsageError
from waltz_env.types import Judgement, NoVerdict, Prompt

Question = TypeVar("Question")


def paired(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[tuple[Prompt, str]]:
    """Pairs each response with its prompt.

    Raises:
        UsageError: the numbers of prompts and responses differ.
    """
    if len(prompts) != len(responses):
        raise UsageError(
            f"Each response needs its prompt, in order; got {len(prompts)} prompts and {len(responses)} responses."
        )
    return list(zip(prompts, responses, strict=True))


def judge_by(
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    *,
    question: Callable[[Prompt, str], Question],
    ask: Callable[[Sequence[Question]], Sequence[str | NoVerdict]],
    read: Callable[[str, Prompt, str], Judgement | NoVerdict],
) -> list[Judgement | NoVerdict]:
    """Judges each response by what a model answers to one question about it.

    Args:
        prompts: one prompt per response.
        responses: the responses to judge.
        question: builds the question from a prompt and its response.
        ask: asks the model all questions in one batch, such as ``Completer.chat``.
        read: reads one answer, given the prompt and the response that it is about.

    Raises:
        UsageError: the numbers of prompts and responses differ.
    """
    pairs = paired(prompts, responses)
    answers = ask([question(prompt, response) for prompt, response in pairs])
    return [
        answer if isinstance(answer, NoVerdict) else read(answer, prompt, response)
        for answer, (prompt, response) in zip(answers, pairs, strict=True)
    ]


def unreadable(answer: str, expected: str) -> NoVerdict:
    """Returns the outcome for an answer that is not in the ``expected`` form."""
    return NoVerdict(f"The model answered {answer[:80]!r}; expected {expected}.")
