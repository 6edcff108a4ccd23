"""Examples for the warm start: drafts, feedback and revisions that are deliberately imperfect.

The rates put the warm-started pair, before any reinforcement learning, where the untrained pair of arXiv:2510.08240,
table 1 stood: it complies with framed harmful requests, refuses borderline ones, flags too much, and breaks JSON. It
does two things well, on which reinforcement learning builds. Its reasoning mostly tells what a request is, although its
flags do not follow from it, and its revisions mostly do what specific advice says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from waltz_env.checks import check_number, check_settings
from waltz_env.feedback import format_feedback
from waltz_env.presets.nano import grammar
from waltz_env.presets.nano.splits import parts
from waltz_env.presets.nano.topics import GROUPS, PLAIN, Topic
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Labels, Observation

GROUP_SHARES = (0.4, 0.4, 0.2)
"""Shares of harmful, borderline and plain topics among the examples."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Rates of the warm start; all are probabilities.

    Attributes:
        draft, feedback: shares of examples that are drafts and feedback; the rest are revisions.
        refuse_plain, refuse_borderline, refuse_harmful: shares of drafts that refuse, by group of topics.
        refuse_wrapped_borderline, refuse_wrapped_harmful: the same for requests with a jailbreak framing.
        true_reasoning: share of reasoning that is right about whether the request is harmful.
        apt_flags_bad, apt_flags_good: shares of flags that follow from reasoning that finds the reply bad, or good.
        malformed: share of feedback that is not valid JSON.
        specific: share of advice that says what to do and why.
        follow_specific: share of revisions that do what specific advice says.
        follow_vague: share of revisions that change sides after vague advice.
    """

    draft: float = 0.38
    feedback: float = 0.36
    refuse_plain: float = 0.02
    refuse_borderline: float = 0.58
    refuse_harmful: float = 0.95
    refuse_wrapped_borderline: float = 0.55
    refuse_wrapped_harmful: float = 0.60
    true_reasoning: float = 0.92
    apt_flags_bad: float = 0.60
    apt_flags_good: float = 0.55
    malformed: float = 0.15
    specific: float = 0.35
    follow_specific: float = 0.90
    follow_vague: float = 0.50

    def __post_init__(self) -> None:
        check_settings(self)
        for field in fields(self):
            check_number(field.name, getattr(self, field.name), low=0, high=1)
        check_number("draft + feedback", self.draft + self.feedback, high=1)


class Example(NamedTuple):
    """What an agent sees and what it should say."""

    observation: Observation
    target: str


def examples(count: int, rng: np.random.Generator, mixture: Mixture | None = None) -> Iterator[Example]:
    """Draw ``count`` examples on the combinations of topic and framing that the warm start may see."""
    mixture = mixture or Mixture()
    groups = [[part for part in parts() if part.topic.group == name] for name in GROUPS]
    for _ in range(count):
        group = groups[rng.choice(len(GROUPS), p=GROUP_SHARES)]
        part = group[rng.integers(len(group))]
        framing = grammar.pick(part.seen, rng)
        request = grammar.pick(tuple(grammar.requests(part.topic, framing)), rng)
        draw = rng.random()
        if draw < mixture.draft:
            yield _draft(part.topic, framing, request, mixture, rng)
        elif draw < mixture.draft + mixture.feedback:
            yield _feedback(part.topic, request, mixture, rng)
        else:
            yield _revision(part.topic, request, mixture, rng)


def _refusal_rate(topic: Topic, framing: str, mixture: Mixture) -> float:
    wrapped = framing in grammar.JAILBREAKS
    if topic.group == PLAIN:
        return mixture.refuse_plain
    if topic.harmful:
        return mixture.refuse_wrapped_harmful if wrapped else mixture.refuse_harmful
    return mixture.refuse_wrapped_borderline if wrapped else mixture.refuse_borderline


def _observation(
    agent: AgentID, request: str, responses: tuple[str, ...] = (), advice: tuple[str, ...] = ()
) -> Observation:
    return {
        "agent": agent, "active": 1, "prompt": request, "history": (), "responses": responses, "feedback": advice,
    }  # fmt: skip


def _draft(topic: Topic, framing: str, request: str, mixture: Mixture, rng: np.random.Generator) -> Example:
    refused = rng.random() < _refusal_rate(topic, framing, mixture)
    return Example(_observation(CONVERSATION, request), grammar.reply(topic, refused, rng))


def _feedback(topic: Topic, request: str, mixture: Mixture, rng: np.random.Generator) -> Example:
    refused = rng.random() < 0.5
    called_harmful = topic.harmful == (rng.random() < mixture.true_reasoning)
    thoughts = grammar.reasoning(topic, called_harmful=called_harmful, refused=refused)
    concluded = Labels(unsafe=called_harmful and not refused, overrefuse=refused and not called_harmful)
    flags = _noisy_flags(concluded, mixture.apt_flags_good if concluded.ok else mixture.apt_flags_bad, rng)
    advice = _advice(topic, flags, mixture, rng)
    text = (
        grammar.broken_json(flags, advice, thoughts, rng)
        if rng.random() < mixture.malformed
        else format_feedback(flags, advice, thoughts)
    )
    return Example(_observation(FEEDBACK, request, (grammar.reply(topic, refused, rng),)), text)


def _revision(topic: Topic, request: str, mixture: Mixture, rng: np.random.Generator) -> Example:
    refused = rng.random() < 0.5
    if rng.random() < 0.5:
        refuse = bool(rng.random() < 0.5)
        advice = grammar.specific_advice(topic, Labels(unsafe=refuse, overrefuse=not refuse), rng)
        follow, wanted = mixture.follow_specific, refuse
    else:
        advice = grammar.pick(grammar.VAGUE, rng)
        follow, wanted = mixture.follow_vague, not refused
    observation = _observation(CONVERSATION, request, (grammar.reply(topic, refused, rng),), (advice,))
    revised = wanted if rng.random() < follow else not wanted
    return Example(observation, grammar.reply(topic, revised, rng))


def _noisy_flags(true: Labels, right: float, rng: np.random.Generator) -> Labels:
    if rng.random() < right:
        return true
    wrong = [labels for labels in (Labels(u, o) for u in (False, True) for o in (False, True)) if labels != true]
    return wrong[rng.integers(len(wrong))]


def _advice(topic: Topic, flags: Labels, mixture: Mixture, rng: np.random.Generator) -> str:
    if flags.ok:
        return grammar.pick(grammar.CONTENT, rng)
    if rng.random() < mixture.specific:
        return grammar.specific_advice(topic, flags, rng)
    return grammar.pick(grammar.VAGUE, rng)
