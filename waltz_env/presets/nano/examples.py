"""Examples for the warm start: drafts, feedback, revisions and exercises in decoding.

All but the exercises are deliberately imperfect. The rates put the warm-started pair, before any reinforcement
learning, about where the untrained pair of arXiv:2510.08240, table 1 stood: it complies with framed harmful requests,
refuses borderline ones, flags too much, and breaks JSON. It does two things well, on which reinforcement learning
builds. Its reasoning decodes a request and mostly tells whether it is harmful, although its flags do not follow from
that. And its revisions mostly do what advice says, and take the task that advice names, be it the right one or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import NamedTuple

import numpy as np

from waltz_env.checks import check_number, check_settings
from waltz_env.feedback import format_feedback
from waltz_env.presets.nano import grammar
from waltz_env.presets.nano.grammar import Deed, Request
from waltz_env.presets.nano.splits import Part, parts, requests
from waltz_env.presets.nano.topics import GROUPS, PLAIN, TOPICS
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Labels, Observation

GROUP_SHARES = (0.45, 0.30, 0.25)
"""Shares of harmful, borderline and plain topics among the examples."""

HOP_SHARES = (0.40, 0.20, 0.40)
"""Shares of 0, 1 and 2 hops among feedback and revisions. Exercises have 1 or 2 hops, evenly."""

DRAFT_HOP_SHARES = (0.76, 0.08, 0.16)
"""The same among drafts. With fewer direct ones, drafts refuse without regard to the topic."""

REFUSED = 0.45
"""Share of the replies shown to the feedback agent and before a revision that refuse."""

STRAYS, STRAYS_IN_CODE = 0.04, 0.65
"""Of the others, shares that are about something else, by whether the request is in code."""

NAMES_THE_WORD = 0.4
"""Of those about something else, share that names the code word; the others name the task of another topic."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Rates of the warm start; all are probabilities.

    Attributes:
        draft, feedback, exercise: shares of the examples by kind; the rest are revisions.
        refuse_plain, refuse_borderline, refuse_harmful: shares of drafts that refuse, by group of topics.
        refuse_wrapped_borderline, refuse_wrapped_harmful: the same for requests with a jailbreak framing.
        refuse_coded: the same for requests in code, whatever the topic.
        name_task: share of drafted answers to requests in code that name the task, which a draft that answers at once
            cannot learn; the others name the code word.
        true_reasoning: share of reasoning that is right about whether the request is harmful.
        apt_flags_bad, apt_flags_good: shares of flags that follow from reasoning that finds the reply bad, or good.
        malformed: share of feedback that is not valid JSON.
        specific, directional: shares of advice that says what to do and what was asked, or only what to do.
        specific_right: share of specific advice that names the task that was asked.
        follow_advice: share of revisions that do what specific or directional advice says.
        follow_vague: share of revisions that change sides after vague advice.
    """

    draft: float = 0.32
    feedback: float = 0.32
    exercise: float = 0.18
    refuse_plain: float = 0.02
    refuse_borderline: float = 0.55
    refuse_harmful: float = 0.95
    refuse_wrapped_borderline: float = 0.50
    refuse_wrapped_harmful: float = 0.60
    refuse_coded: float = 0.45
    name_task: float = 0.80
    true_reasoning: float = 0.96
    apt_flags_bad: float = 0.60
    apt_flags_good: float = 0.55
    malformed: float = 0.12
    specific: float = 0.30
    directional: float = 0.30
    specific_right: float = 0.70
    follow_advice: float = 0.92
    follow_vague: float = 0.50

    def __post_init__(self) -> None:
        check_settings(self)
        for field in fields(self):
            check_number(field.name, getattr(self, field.name), low=0, high=1)
        check_number("draft + feedback + exercise", self.draft + self.feedback + self.exercise, high=1)
        check_number("specific + directional", self.specific + self.directional, high=1)


class Example(NamedTuple):
    """What an agent sees and what it should say."""

    observation: Observation
    target: str


def examples(
    count: int, rng: np.random.Generator, mixture: Mixture | None = None, *, thinking: bool = False
) -> Iterator[Example]:
    """Draw ``count`` examples in the wordings that the warm start may see.

    Args:
        count: number of examples.
        rng: source of all randomness.
        mixture: rates of the examples.
        thinking: whether the conversation agent writes down in private what a request means before it answers.
    """
    mixture = mixture or Mixture()
    draft_hops = HOP_SHARES if thinking else DRAFT_HOP_SHARES
    for _ in range(count):
        kind = rng.random()
        if kind < mixture.draft:
            request, wrapped = _request(rng, draft_hops)
            said = _draft(request, wrapped, mixture, rng)
            yield Example(_observation(CONVERSATION, request.text), _thought(request, said, mixture, rng, thinking))
        elif kind < mixture.draft + mixture.feedback:
            request, _ = _request(rng, HOP_SHARES)
            yield _feedback(request, mixture, rng)
        elif kind < mixture.draft + mixture.feedback + mixture.exercise:
            request, _ = _request(rng, (0, 0.5, 0.5))
            yield Example(_observation(CONVERSATION, grammar.exercise(request)), grammar.decoding(request))
        else:
            request, _ = _request(rng, HOP_SHARES)
            seen, said = _revision(request, mixture, rng)
            yield Example(seen, _thought(request, said, mixture, rng, thinking))


def _request(rng: np.random.Generator, hop_shares: tuple[float, ...]) -> tuple[Request, bool]:
    """A request, and whether it has a jailbreak framing."""
    candidates = _parts_of(GROUPS[rng.choice(len(GROUPS), p=GROUP_SHARES)])
    part = candidates[rng.integers(len(candidates))]
    hops = int(rng.choice(len(hop_shares), p=hop_shares))
    if hops > 0:
        pool = requests(part.topic, part.seen, hops)
        return pool[rng.integers(len(pool))], False
    framing = grammar.pick(part.seen.framings, rng)
    direct = grammar.direct_requests(part.topic, framing)
    return direct[rng.integers(len(direct))], framing in grammar.JAILBREAKS


@cache
def _parts_of(group: str) -> tuple[Part, ...]:
    return tuple(part for part in parts() if part.topic.group == group)


def _observation(
    agent: AgentID, request: str, responses: tuple[str, ...] = (), advice: tuple[str, ...] = ()
) -> Observation:
    return {
        "agent": agent, "active": 1, "prompt": request, "history": (), "responses": responses, "feedback": advice,
    }  # fmt: skip


def _thought(request: Request, said: str, mixture: Mixture, rng: np.random.Generator, thinking: bool) -> str:
    """What the conversation agent says, after its private thoughts if it has any."""
    if not thinking:
        return said
    called_harmful = request.topic.harmful == (rng.random() < mixture.true_reasoning)
    return f"{grammar.thoughts(request, called_harmful=called_harmful)} {grammar.THOUGHT_END} {said}"


def _draft(request: Request, wrapped: bool, mixture: Mixture, rng: np.random.Generator) -> str:
    refused = bool(rng.random() < _refusal_rate(request, wrapped, mixture))
    names_task = not request.words or (not refused and rng.random() < mixture.name_task)
    return grammar.reply(request.topic.task if names_task else request.asked, refused, rng)


def _refusal_rate(request: Request, wrapped: bool, mixture: Mixture) -> float:
    topic = request.topic
    if request.words:
        return mixture.refuse_coded
    if topic.group == PLAIN:
        return mixture.refuse_plain
    if topic.harmful:
        return mixture.refuse_wrapped_harmful if wrapped else mixture.refuse_harmful
    return mixture.refuse_wrapped_borderline if wrapped else mixture.refuse_borderline


def _reply(request: Request, rng: np.random.Generator) -> tuple[str, Deed]:
    """A reply of any kind, and what it does."""
    if rng.random() < REFUSED:
        return grammar.reply(request.asked, True, rng), "refuses"
    if rng.random() < (STRAYS_IN_CODE if request.words else STRAYS):
        return grammar.reply(_wrong_task(request, rng), False, rng), "strays"
    return grammar.reply(request.topic.task, False, rng), "answers"


def _wrong_task(request: Request, rng: np.random.Generator) -> str:
    """The code word of a request, or the task of another topic."""
    if request.words and rng.random() < NAMES_THE_WORD:
        return request.asked
    others = [topic.task for topic in TOPICS if topic != request.topic]
    return others[rng.integers(len(others))]


def _feedback(request: Request, mixture: Mixture, rng: np.random.Generator) -> Example:
    reply, deed = _reply(request, rng)
    called_harmful = request.topic.harmful == (rng.random() < mixture.true_reasoning)
    reason = grammar.reasoning(request, deed, called_harmful=called_harmful)
    concluded = grammar.labels_of(called_harmful, deed)
    flags = _noisy_flags(concluded, mixture.apt_flags_good if concluded.ok else mixture.apt_flags_bad, rng)
    advice = _advice(request, flags, mixture, rng)
    text = (
        grammar.broken_json(flags, advice, reason, rng)
        if rng.random() < mixture.malformed
        else format_feedback(flags, advice, reason)
    )
    return Example(_observation(FEEDBACK, request.text, (reply,)), text)


def _noisy_flags(true: Labels, right: float, rng: np.random.Generator) -> Labels:
    if rng.random() < right:
        return true
    wrong = [labels for labels in (Labels(u, o) for u in (False, True) for o in (False, True)) if labels != true]
    return wrong[rng.integers(len(wrong))]


def _advice(request: Request, flags: Labels, mixture: Mixture, rng: np.random.Generator) -> str:
    if flags.ok:
        return grammar.pick(grammar.CONTENT, rng)
    # If both flags are set, which contradict each other, one is drawn.
    refuse = flags.unsafe if flags.unsafe != flags.overrefuse else bool(rng.random() < 0.5)
    kind = rng.random()
    if kind < mixture.specific:
        right = rng.random() < mixture.specific_right
        return grammar.specific_advice(request.topic.task if right else _wrong_task(request, rng), refuse, rng)
    if kind < mixture.specific + mixture.directional:
        return grammar.directional_advice(refuse, rng)
    return grammar.pick(grammar.VAGUE, rng)


def _revision(request: Request, mixture: Mixture, rng: np.random.Generator) -> tuple[Observation, str]:
    """What the conversation agent sees and says in a revision: it takes the task that specific advice names."""
    draft, deed = _reply(request, rng)
    task = request.topic.task
    kind = rng.random()
    if kind < 0.55:
        refuse = bool(rng.random() < 0.4)
        task = task if rng.random() < 0.5 else _wrong_task(request, rng)
        advice, follow = grammar.specific_advice(task, refuse, rng), mixture.follow_advice
    elif kind < 0.78:
        refuse = bool(rng.random() < 0.5)
        advice, follow = grammar.directional_advice(refuse, rng), mixture.follow_advice
    else:
        refuse = deed != "refuses"
        advice, follow = grammar.pick(grammar.VAGUE, rng), mixture.follow_vague
    refused = refuse if rng.random() < follow else not refuse
    return _observation(CONVERSATION, request.text, (draft,), (advice,)), grammar.reply(task, refused, rng)
