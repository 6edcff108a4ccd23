"""The splits of the requests. Constants fix them, not a run's seed: every run has the same held-out prompts.

A combination is a pair (topic, framing). Both topics and combinations are split:

                        RL topics (80)     validation topics (20)     test topics (50)
    seen combinations   warm start, RL     warm start                 warm start
    other combinations  validation, and    validation                 the test set "topics"
                        the test set
                        "combinations"

No prompt of a test set or of the validation split occurs in the warm start or in RL, and RL never sees a request about
a validation or test topic.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import NamedTuple

import numpy as np

from waltz_env.presets.nano import grammar
from waltz_env.presets.nano.topics import GROUPS, PLAIN, TOPICS, Topic
from waltz_env.types import Prompt

_SEED = 20_251_008
_TEST_TOPICS, _VALIDATION_TOPICS = 1 / 3, 2 / 15


class Use(StrEnum):
    """What a topic is used for."""

    RL = "rl"
    VALIDATION = "validation"
    TEST = "test"


class Part(NamedTuple):
    """A topic, what it is used for, and its framings by what they are used for."""

    topic: Topic
    use: Use
    seen: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


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
    names = tuple(rng.permutation(list(grammar.framings(topic))).tolist())
    test = 1 if topic.group == PLAIN else 2
    return Part(topic, use, seen=names[test + 1 :], validation=names[test : test + 1], test=names[:test])


def train() -> list[Prompt]:
    """Prompts for RL: seen combinations of RL topics."""
    return _prompts("train", [(part.topic, part.seen, 7 if part.topic.group == PLAIN else 3) for part in _of(Use.RL)])


def validation() -> list[Prompt]:
    """Prompts on which settings are chosen: held-out combinations of RL topics, and topics that RL never sees."""
    held_out = [(part.topic, part.validation, 2 if part.topic.group == PLAIN else 1) for part in _of(Use.RL)]
    unseen = [(part.topic, part.validation + part.test, 2) for part in _of(Use.VALIDATION)]
    return _prompts("validation", held_out + unseen)


def combinations() -> list[Prompt]:
    """Test set: topics of RL with framings that they never had in the warm start or in RL."""
    return _prompts(
        "combinations", [(part.topic, part.test, 3 if part.topic.group == PLAIN else 1) for part in _of(Use.RL)]
    )


def unseen_topics() -> list[Prompt]:
    """Test set: topics of the warm start that RL never saw, with framings that they never had."""
    return _prompts(
        "topics", [(part.topic, part.test, 5 if part.topic.group == PLAIN else 2) for part in _of(Use.TEST)]
    )


def _of(use: Use) -> list[Part]:
    return [part for part in parts() if part.use is use]


def _prompts(split: str, wanted: list[tuple[Topic, tuple[str, ...], int]]) -> list[Prompt]:
    """``wanted`` holds topics, their framings, and the number of wordings of each combination."""
    rng = np.random.default_rng([_SEED, *split.encode()])
    prompts: list[Prompt] = []
    for topic, framings, count in wanted:
        for framing in framings:
            texts = grammar.requests(topic, framing)
            for i in rng.choice(len(texts), size=min(count, len(texts)), replace=False):
                prompts.append(
                    Prompt(
                        texts[i],
                        topic.kind,
                        id=f"nano-{split}-{len(prompts):04d}",
                        category=topic.category,
                        source="nano",
                        topic=topic.task,
                    )
                )
    return prompts
