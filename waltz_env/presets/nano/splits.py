"""The splits of the requests. Constants fix them, not a run's seed: every run has the same held-out prompts.

Topics are split, and what a topic's requests are made of is split for each topic by itself: the framings of direct
requests, the questions of requests with one hop, and the ciphers of requests with two.

                      RL topics (80)     validation topics (20)     test topics (50)
    seen wordings     warm start, RL     warm start                 warm start
    other wordings    validation, and    validation                 the test set "topics"
                      the test set
                      "combinations"

No prompt of a test set or of the validation split occurs in the warm start or in RL, and RL never sees a request about
a validation or test topic. The warm start teaches every code word and every cipher, but never the code words that a
topic has under its own validation and test ciphers: what they mean has to be worked out.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from typing import NamedTuple

import numpy as np

from waltz_env.presets.nano import grammar
from waltz_env.presets.nano.codes import CIPHERS
from waltz_env.presets.nano.grammar import Request
from waltz_env.presets.nano.topics import BORDERLINE, GROUPS, HARMFUL, PLAIN, TOPICS, Topic
from waltz_env.types import Prompt

HOP_SHARES = (0.65, 0.10, 0.25)
"""Shares of prompts with 0, 1 and 2 hops."""

_SEED = 20_251_008
_TEST_TOPICS, _VALIDATION_TOPICS = 1 / 3, 2 / 15


class Use(StrEnum):
    """What a topic is used for."""

    RL = "rl"
    VALIDATION = "validation"
    TEST = "test"


class Wordings(NamedTuple):
    """What requests about a topic are made of: names of framings, questions for one hop, ciphers for two hops."""

    framings: tuple[str, ...]
    asks: tuple[str, ...]
    ciphers: tuple[str, ...]

    def __add__(self, other: Wordings) -> Wordings:  # type: ignore[override]  # a sum of wordings, not of tuples
        return Wordings(self.framings + other.framings, self.asks + other.asks, self.ciphers + other.ciphers)


class Part(NamedTuple):
    """A topic, what it is used for, and its wordings by what they are used for."""

    topic: Topic
    use: Use
    seen: Wordings
    validation: Wordings
    test: Wordings


@cache
def parts() -> tuple[Part, ...]:
    """Every topic with its split, in the order of ``TOPICS``."""
    rng = np.random.default_rng(_SEED)
    uses: dict[Topic, Use] = {}
    for group in ([topic for topic in TOPICS if topic.group == name] for name in GROUPS):
        test, validation = round(len(group) * _TEST_TOPICS), round(len(group) * _VALIDATION_TOPICS)
        order = [Use.TEST] * test + [Use.VALIDATION] * validation
        order += [Use.RL] * (len(group) - len(order))
        uses.update(zip(group, (order[i] for i in rng.permutation(len(group))), strict=True))
    return tuple(_part(topic, uses[topic], rng) for topic in TOPICS)


def _part(topic: Topic, use: Use, rng: np.random.Generator) -> Part:
    framings, asks, ciphers = (
        tuple(rng.permutation(list(names)).tolist()) for names in (grammar.framings(topic), grammar.ASKS, CIPHERS)
    )
    held = 1 if topic.group == PLAIN else 2  # framings for the test sets
    return Part(
        topic,
        use,
        seen=Wordings(framings[held + 1 :], asks[3:], ciphers[2:]),
        validation=Wordings(framings[held : held + 1], asks[2:3], ciphers[1:2]),
        test=Wordings(framings[:held], asks[:2], ciphers[:1]),
    )


@cache
def requests(topic: Topic, wordings: Wordings, hops: int) -> tuple[Request, ...]:
    """Every request about ``topic`` with so many hops in these wordings.

    With three hops, two ciphers are to be undone, of which the first is one of the wordings'.
    """
    if hops == 0:
        return tuple(each for framing in wordings.framings for each in grammar.direct_requests(topic, framing))
    if hops == 1:
        return tuple(grammar.coded_request(topic, ask) for ask in wordings.asks)
    ciphers: list[tuple[str, ...]] = [(cipher,) for cipher in wordings.ciphers]
    if hops == 3:
        ciphers = [(*first, second) for first in ciphers for second in CIPHERS if second not in first]
    return tuple(grammar.coded_request(topic, ask, chosen) for chosen in ciphers for ask in grammar.ASKS)


def train() -> list[Prompt]:
    """1,200 prompts for RL: seen wordings of RL topics."""
    return _prompts("train", [(part.topic, part.seen) for part in _of(Use.RL)], 1_200)


def validation() -> list[Prompt]:
    """240 prompts on which settings are chosen: 80 on RL topics, 160 on topics that RL never sees."""
    held_out = [(part.topic, part.validation) for part in _of(Use.RL)]
    unseen = [(part.topic, part.validation + part.test) for part in _of(Use.VALIDATION)]
    return _prompts("validation", held_out, 80) + _prompts("validation-topics", unseen, 160)


def combinations() -> list[Prompt]:
    """Test set, 160 prompts: topics of RL in wordings that they never had in the warm start or in RL."""
    return _prompts("combinations", [(part.topic, part.test) for part in _of(Use.RL)], 160)


def unseen_topics() -> list[Prompt]:
    """Test set, 240 prompts: topics of the warm start that RL never saw, in wordings that they never had."""
    return _prompts("topics", [(part.topic, part.test) for part in _of(Use.TEST)], 240)


def three_hops() -> list[Prompt]:
    """Robustness, 120 prompts: topics that RL never saw in requests with one hop more than any in training."""
    return _prompts("three-hops", [(part.topic, part.test) for part in _of(Use.TEST)], 120, shares=(0, 0, 0, 1))


def unseen_framings() -> list[Prompt]:
    """Robustness, 120 prompts: topics that RL never saw in framings that nobody saw."""
    wordings = Wordings(tuple(grammar.UNSEEN), (), ())
    return _prompts("unseen-framings", [(part.topic, wordings) for part in _of(Use.TEST)], 120, shares=(1,))


def _of(use: Use) -> list[Part]:
    return [part for part in parts() if part.use is use]


def _prompts(
    split: str, sources: Sequence[tuple[Topic, Wordings]], count: int, *, shares: Sequence[float] = HOP_SHARES
) -> list[Prompt]:
    """``count`` different prompts in random order: half harmful, a quarter borderline, a quarter plain."""
    rng = np.random.default_rng([_SEED, *split.encode()])
    drawn: list[Request] = []
    for group, share in ((HARMFUL, 0.5), (BORDERLINE, 0.25), (PLAIN, 0.25)):
        for hops, of_hops in enumerate(shares):
            drawn += _requests(sources, group, hops, round(count * share * of_hops), rng)
    shuffled = [drawn[i] for i in rng.permutation(len(drawn))]
    return [_prompt(request, f"nano-{split}-{number:04d}") for number, request in enumerate(shuffled)]


def _requests(
    sources: Sequence[tuple[Topic, Wordings]], group: str, hops: int, count: int, rng: np.random.Generator
) -> list[Request]:
    """``count`` different requests, drawn so that no topic has more than one more than another."""
    pools = [requests(topic, wordings, hops) for topic, wordings in sources if topic.group == group]
    shuffled = [[pools[topic][i] for i in rng.permutation(len(pools[topic]))] for topic in rng.permutation(len(pools))]
    in_turn = [request for row in zip(*shuffled, strict=False) for request in row]
    return in_turn[:count]


def _prompt(request: Request, id: str) -> Prompt:
    topic = request.topic
    category = f"coded-{request.hops}" if request.hops else topic.category
    return Prompt(request.text, topic.kind, id=id, category=category, source="nano", topic=topic.task)
