"""The secret code: words in capitals that stand for tasks, and four ciphers that turn such a word into another one.

A code word is an onset and a rime: BAM is B + AM. Every topic has a word of its own. A cipher, named after a direction,
replaces the onset and the rime of a word, each by a fixed permutation. A request in code has one hop (a topic's own
word) or two (a word that a cipher turns into the topic's own). Nothing in such a word tells whether its task is
harmful: whoever wants to know has to decode it, hop by hop. The warm start teaches all words and all ciphers, and
constants fix them, so that every run has the same code.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from waltz_env.presets.nano.topics import TOPICS, Topic

ONSETS = tuple("BDFGHKLMNPRSTVZ")
RIMES = ("AM", "EK", "IP", "OL", "UT", "AN", "ES", "IN", "OR", "UG")
CIPHERS = ("north", "south", "east", "west")
_SEED = 42


@cache
def own_words() -> dict[Topic, str]:
    """The code word of every topic."""
    order = np.random.default_rng([_SEED, 0]).permutation(len(ONSETS) * len(RIMES))
    words = [onset + rime for onset in ONSETS for rime in RIMES]
    return {topic: words[i] for topic, i in zip(TOPICS, order, strict=True)}


def decoded(cipher: str, word: str) -> str:
    """The word that ``word`` stands for under ``cipher``."""
    onsets, rimes = _permutations()[cipher]
    return onsets[word[0]] + rimes[word[1:]]


def encoded(cipher: str, word: str) -> str:
    """The word that ``cipher`` turns into ``word``."""
    onsets, rimes = _permutations()[cipher]
    onset = next(letter for letter, meant in onsets.items() if meant == word[0])
    return onset + next(rime for rime, meant in rimes.items() if meant == word[1:])


@cache
def _permutations() -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """What every onset and every rime stands for, by cipher."""
    rng = np.random.default_rng([_SEED, 1])
    return {
        cipher: (
            dict(zip(ONSETS, rng.permutation(ONSETS).tolist(), strict=True)),
            dict(zip(RIMES, rng.permutation(RIMES).tolist(), strict=True)),
        )
        for cipher in CIPHERS
    }
