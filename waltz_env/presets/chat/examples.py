"""Examples for the warm start, which show what drafts, feedback and revisions look like, on training prompts.

Answers are the model's own. The refusal, the advice and the reasoning are the sentences below.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from waltz_env.checks import check_number, check_settings
from waltz_env.errors import UsageError
from waltz_env.feedback import format_feedback
from waltz_env.game import Game
from waltz_env.types import CONVERSATION, FEEDBACK, Labels, Observation, Prompt

# One wording each: so few examples can teach when to say something or other ways to say it, but not both. None of the
# model's own answers begins with the refusal's first word, so one token decides between the two.
REFUSAL = "Sorry, I can't help with that."
UNSAFE_ADVICE = "Refuse this request."
OVERREFUSE_ADVICE = "Answer this request."
NO_ADVICE = "Keep it as it is."
STAND_IN = "Sure, here is how to do that, step by step."
"""The beginning of an answer to a harmful prompt that the model itself refuses to give."""


class Answered(NamedTuple):
    """A prompt, and an answer to it."""

    prompt: Prompt
    answer: str


class Example(NamedTuple):
    """What an agent sees and what it should say; ``ended`` is False if that is only the beginning of its turn."""

    observation: Observation
    target: str
    ended: bool = True


_DECIDING_WORDS = 3
"""Number of words after which a draft has refused or not."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares and probabilities of the warm start.

    Attributes:
        draft, feedback: shares of examples that are drafts and feedback; the rest are revisions.
        whole: share of drafts and feedback that are taught to their end. The others stop after the words that decide,
            because when to refuse is harder to learn than how, and those few tokens would drown among the rest.
        harmful: share of harmful prompts.
    """

    draft: float = 0.4
    feedback: float = 0.5
    whole: float = 1.0
    harmful: float = 0.35

    def __post_init__(self) -> None:
        check_settings(self)
        for field in fields(self):
            check_number(field.name, getattr(self, field.name), low=0, high=1)
        check_number("draft + feedback", self.draft + self.feedback, high=1)


def examples(
    answered: Sequence[Answered], count: int, rng: np.random.Generator, mixture: Mixture | None = None
) -> Iterator[Example]:
    """Draw ``count`` examples on the prompts of ``answered``.

    Raises:
        UsageError: ``answered`` lacks a kind of prompt.
    """
    mixture = mixture or Mixture()
    harmful, benign = ([each for each in answered if each.prompt.harmful is kind] for kind in (True, False))
    if not harmful or not benign:
        raise UsageError(
            f"The warm start needs answered prompts of both kinds; got {len(harmful)} harmful and {len(benign)} "
            "benign ones. Give it more prompts, or a model that answers them."
        )
    harmful_walk, benign_walk = _endless(harmful, rng), _endless(benign, rng)
    for _ in range(count):
        prompt, answer = next(harmful_walk if rng.random() < mixture.harmful else benign_walk)
        draw = rng.random()
        if draw >= mixture.draft + mixture.feedback:
            yield _revision(prompt, answer)
            continue
        example = _draft(prompt, answer) if draw < mixture.draft else _feedback(prompt, answer, rng)
        yield example if rng.random() < mixture.whole else _beginning(prompt, example)


def critique(prompt: Prompt, *, refused: bool) -> str:
    """The right feedback on a response that refuses or answers ``prompt``; the reasoning first states the intent."""
    labels = Labels(unsafe=prompt.harmful and not refused, overrefuse=refused and not prompt.harmful)
    advice = UNSAFE_ADVICE if labels.unsafe else OVERREFUSE_ADVICE if labels.overrefuse else NO_ADVICE
    asked = f"Asks {prompt.intent}. " if prompt.intent else ""
    reasoning = f"{asked}{_named_kind(prompt)} {'refused' if refused else 'answered'}."
    return format_feedback(labels, advice, reasoning)


def _named_kind(prompt: Prompt) -> str:
    return f"{prompt.kind.value.capitalize()} request,"


def _beginning(prompt: Prompt, example: Example) -> Example:
    """The example up to the words that decide: a draft has refused or not, feedback has named the kind of request."""
    if example.observation["agent"] == FEEDBACK:
        before, named, _ = example.target.partition(_named_kind(prompt))
        return example._replace(target=before + named, ended=False)
    return example._replace(target=" ".join(example.target.split(" ")[:_DECIDING_WORDS]), ended=False)


def _draft(prompt: Prompt, answer: str) -> Example:
    return Example(Game(prompt).observe(CONVERSATION), REFUSAL if prompt.harmful else answer)


def _feedback(prompt: Prompt, answer: str, rng: np.random.Generator) -> Example:
    refused = bool(rng.random() < 0.5)
    game = Game(prompt)
    game.act(REFUSAL if refused else answer)
    return Example(game.observe(FEEDBACK), critique(prompt, refused=refused))


def _revision(prompt: Prompt, answer: str) -> Example:
    """A bad draft, the right feedback on it, and the response that follows the advice."""
    good, bad = (REFUSAL, answer) if prompt.harmful else (answer, REFUSAL)
    game = Game(prompt)
    game.act(bad)
    game.act(critique(prompt, refused=not prompt.harmful))
    return Example(game.observe(CONVERSATION), good)


def _endless(items: Sequence[Answered], rng: np.random.Generator) -> Iterator[Answered]:
    """Yield all items again and again, each time in a new order."""
    while True:
        for index in rng.permutation(len(items)):
            yield items[index]
