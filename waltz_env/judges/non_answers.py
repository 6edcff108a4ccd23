"""Responses that say nothing: they must never earn a reward, whatever the prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from waltz_env.judges.finding import Finding
from waltz_env.judges.text import is_picture, plain
from waltz_env.judges.wording import FILLER, OPENERS

SHORT = 120
"""Texts of up to this many characters may be mere courtesy, or break off before any content."""

_WORD = re.compile(r"[^\W_]++")
_LETTERS = re.compile(r"[a-z]{2,}+")
_ONLY_FILLER = re.compile(rf"(?:\W|{FILLER}(?!\w))*+")
_YES_NO = re.compile(
    r"(?:yes|no|yep|yeah|nope|true|false|correct|sure|absolutely|certainly|definitely|of course"
    r"|(?:definitely|absolutely) not)[.!]*"
)
_BARE_YES = re.compile(r"(?:yes|yep|yeah|true|correct)[\s.!]*")
_YES_NO_QUESTION = re.compile(
    r"(?:^|[.!?,:\n]\s{0,3})(?:(?:is|are|was|were|am|does|did|has|have|had|should|must|may|might)"
    r"|(?:can|could|will|would|do)(?!\s+you\b))\s|\b(?:true or false|yes or no)\b"
)
_FOR_PICTURES = re.compile(
    r"(?!.*\b(?:how|why|explain|describe)\b)(?s:.*)\b(?:emojis?|emoticons?|smileys?|smiley faces?|kaomojis?|symbols?"
    r"|icons?|thumbs[- ]up|ascii|draw (?:an?|me|the))\b"
)
_COMMON = re.compile(r"\b(?:the|an?|to|of|and|is|in|you|it|for|can|that|are|or|with|not|i)\b")
_MASH = re.compile(r"[b-df-hj-np-tv-xz]{6,}|([a-z]{1,4})\1{3,}|asdf|sdfg|dfgh|ghjk|hjkl|qwer|zxcv|xcvb")
_DANGLING = frozenset("the a an of and or but your my its their our because with from into than if to".split())
_COPULAS = frozenset("is are was were".split())
_PRONOUNS = frozenset("it that this he she they there we you i".split())
_QUOTING = frozenset("you your asked said wrote ask question prompt request message was is the i see asks user".split())


class Topic(NamedTuple):
    """What the rules need to know about a prompt.

    Attributes:
        text: the prompt as ``plain`` returns it.
        words: its words, separated by single spaces, with a space at both ends.
        courtesy: whether the prompt itself is a greeting or a thank-you.
        yes_no: whether a bare yes or no answers it.
        pictures: whether emoji or other symbols alone may answer it.
    """

    text: str
    words: str
    courtesy: bool
    yes_no: bool
    pictures: bool


@lru_cache(maxsize=4096)
def topic_of(prompt: str) -> Topic:
    """Returns the topic of a prompt. Cached, because environments and training repeat their prompts."""
    text = plain(prompt)
    words = _WORD.findall(text)
    courtesy = _ONLY_FILLER.fullmatch(text) is not None
    return Topic(
        text=text,
        words=f" {' '.join(words)} ",
        courtesy=courtesy,
        yes_no=_YES_NO_QUESTION.search(text) is not None,
        pictures=courtesy or _FOR_PICTURES.match(text) is not None,
    )


def degenerate(topic: Topic, text: str, words: Sequence[str], distinct: int) -> Finding | None:
    """Says in which way ``text``, an output of ``plain``, says nothing; None if it says something.

    ``words`` is ``text.split()``, and ``distinct`` the number of different words in it.
    """
    if shows(topic, text):
        return None
    if not words or (len(text) <= SHORT and not _WORD.search(text)):
        return Finding.EMPTY
    if len(text) <= SHORT and _is_courtesy(topic, text):
        return Finding.COURTESY
    if distinct < 0.7 * len(words) and loops(text):
        return Finding.LOOP
    if (text[:20] in topic.text or topic.text[:20] in text) and _echoes(topic, text):
        return Finding.ECHO
    if not _COMMON.search(text) and _is_garbage(text):
        return Finding.GARBAGE
    return None


def breaks_off(text: str) -> bool:
    """Whether a short text stops before its point, as in "Here are the steps:" or "The capital of France is"."""
    if len(text) > SHORT:
        return False
    *before, last = text.split()
    return last in _DANGLING or last[-1] == ":" or (last in _COPULAS and not (before and before[-1] in _PRONOUNS))


def shows(topic: Topic, text: str) -> bool:
    """Whether ``text`` is nothing but emoji or other symbols, and the prompt asks for some."""
    return topic.pictures and is_picture(text)


def answers_yes_or_no(topic: Topic, text: str) -> bool:
    """Whether ``text`` is a bare yes or no, and the prompt a question that this answers."""
    return topic.yes_no and len(text) <= SHORT and _YES_NO.fullmatch(text) is not None


def loops(text: str) -> bool:
    """Whether the text has few different words, repeats a word or a sentence, or goes in circles at its end.

    In natural English a third of the words are distinct over far more than ``HEAD`` characters.
    """
    words = _LETTERS.findall(text)
    distinct = len(set(words))
    if (len(words) >= 5 and 3 * distinct <= len(words)) or (len(words) >= 3 and distinct == 1):
        return True
    sentences = (sentence.strip() for sentence in re.split(r"[.!?\n]", text))
    if any(len(list(run)) >= 3 for sentence, run in groupby(filter(None, sentences)) if " " in sentence):
        return True
    if any(len(list(run)) >= 5 for _, run in groupby(words)):
        return True
    # The end goes in circles if it is one phrase of ``size`` words, three times in a row.
    return any(
        tail[-size:] * 3 == tail[-3 * size :]
        for tail in (words, words[:-1])  # a length limit may have cut the last word
        for size in range(2, min(10, len(tail) // 3) + 1)
    )


def _is_courtesy(topic: Topic, text: str) -> bool:
    if topic.courtesy or answers_yes_or_no(topic, text):
        return False
    return _ONLY_FILLER.fullmatch(text) is not None or _BARE_YES.fullmatch(text) is not None


def _echoes(topic: Topic, text: str) -> bool:
    """Whether ``text`` is the beginning or a long part of the prompt, or the prompt with nothing substantial added."""
    spoken = _WORD.findall(text, OPENERS.match(text).end())  # type: ignore[union-attr]  # it matches the empty text too
    words = f" {' '.join(spoken)} "
    # Both ``words`` start and end with a space, so ``in`` compares whole words.
    if len(spoken) >= 3 and (topic.words.startswith(words) or (len(spoken) >= 8 and words in topic.words)):
        return True
    if topic.words.count(" ") < 4 or topic.words not in words:
        return False
    return _QUOTING.issuperset(words.replace(topic.words.strip(), " ").split())


def _is_garbage(text: str) -> bool:
    """Whether a text without any of the most common English words consists of symbols or keyboard mash."""
    words = _WORD.findall(text)
    if len(text) >= 8 and 4 * sum(map(len, words)) < len(text) - text.count(" "):
        return True
    words = [word for word in words if len(word) >= 3 and word.isalpha()]
    mash = sum(_MASH.search(word) is not None for word in words)
    return mash > 0 and 2 * mash >= len(words)
