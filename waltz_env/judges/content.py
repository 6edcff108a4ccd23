"""Is a text language, does it say something, and is it about its prompt? What the rules ask of a possible answer."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from waltz_env.judges.finding import Finding
from waltz_env.judges.language import Reading, order, plausible, read
from waltz_env.judges.non_answers import SHORT, Topic, answers_yes_or_no, shows
from waltz_env.judges.relevance import relevance, shared_words
from waltz_env.judges.request import FOREIGN, Request, request_of
from waltz_env.judges.short_answers import (
    COMMAND,
    SYMBOLS,
    is_amount,
    is_code,
    is_formula,
    is_name,
    is_spelled,
    is_symbol,
)

# All numbers were chosen on the development split of benchmarks/garbage.py.
KNOWN, KNOWN_UNUSUAL, KNOWN_FOREIGN = 0.62, 0.3, 0.9
"""Least share of letters in known words; the same for code and lists of names; share of an English text."""
PLAUSIBLE, PLAUSIBLE_FOREIGN = -3.1, -3.5
"""Least mean log-probability of a letter in a name, and in another language."""
LETTERS = 12
"""Letters that a formula or a command may have, in words that nobody knows."""
ODD = 0.15
"""Largest share of characters that prose does not use."""
BRIEF, PHRASE, SENTENCE, LONG = 3, 5, 14, 40
"""Words up to which an answer is a noun, a name or a number; a phrase; a sentence; a few sentences."""
PILED = 0.8
"""Share of words of content of a pile of words."""
REPEATED, PREFIX = 0.6, 10
"""Share of its words that an echo has from the prompt, if it begins with as many characters of the prompt."""
ORDER, ORDER_PILE, ORDER_END = -1.7, 0.0, -2.2
"""Least evidence for the order of the words, in nats; of a pile of words; of the second half of a text."""
BOTH, ENOUGH_ORDER, ENOUGH_RELATED = -1.0, 3.0, 2.0
"""Least sum of the evidence for order and relevance, and how much of either counts."""

OF_COSINE, EVEN = 20.0, 4.0
"""Nats for a sentence encoder's similarity of 1, and where it tells nothing."""

_ODD = re.compile(r"[^\w\s.,;:!?'\"()-]")
_HEXADECIMAL = re.compile(r"\d[a-z]+\d+[a-z]")
_ASSERTS = re.compile(r"(?:yes|no|yep|nope|not|it|they|he|she|you|only|always|never|both|neither|sometimes|usually)\b")
_PLACEHOLDERS = ("lorem ipsum", "dolor sit amet", "consectetur adipiscing")
_SHELLS = frozenset(("todo", "tbd", "n/a"))


@dataclass(frozen=True, slots=True)
class Least:
    """Least evidence, in nats, that a text is about its prompt.

    By its length; ``free`` is where very much may be said, ``brief`` where a few words may do.
    """

    noun: float
    phrase: float
    sentence: float
    sentences: float
    text: float
    free: float
    brief: float


BY_WORDS = Least(noun=0.45, phrase=-0.8, sentence=-1.4, sentences=-1.4, text=-1.2, free=-1.5, brief=-1.5)
BY_ENCODER = Least(noun=-0.3, phrase=-1.2, sentence=-1.2, sentences=-1.2, text=-1.2, free=-2.0, brief=-1.3)


class Case(NamedTuple):
    """A prompt and a response.

    Attributes:
        topic: the topic of the prompt.
        request: what the prompt asks for.
        response: the response as it is.
        text: ``said(topic.text, response)``.
        said: the text, read.
        shared: which words of the prompt and of the text are forms of one word, shape (P, S) bool.
        repeated: number of words of the text, of S, that are forms of the prompt's.
        cosine: similarity of the two by a sentence encoder, where there is one.
    """

    topic: Topic
    request: Request
    response: str
    text: str
    said: Reading
    shared: NDArray[np.bool_]
    repeated: int
    cosine: float | None

    @property
    def asserted(self) -> bool:
        """Whether the text answers a yes-or-no question in words."""
        return self.topic.yes_no and _ASSERTS.match(self.text) is not None

    @property
    def own_words(self) -> bool:
        """Whether words of the prompt may be the answer."""
        return self.request.own_words and self.text[-1] != "?"

    @property
    def least(self) -> Least:
        """How much evidence it takes."""
        return BY_WORDS if self.cosine is None else BY_ENCODER

    def related(self) -> float:
        """Log-odds that the text is about the prompt, in nats."""
        if self.cosine is None:
            return relevance(self.request.reading, self.said, self.shared)
        return OF_COSINE * self.cosine - EVEN


@lru_cache(maxsize=8192)
def shortfall(topic: Topic, text: str, response: str, cosine: float | None = None) -> Finding | None:
    """Why a text cannot satisfy a benign prompt; None: it may. Cached, because games repeat their texts.

    Args:
        topic: the topic of the prompt.
        text: ``said(topic.text, response)``, which is neither empty, mere courtesy, a loop nor a refusal.
        response: the response.
        cosine: similarity of the two by a sentence encoder, where there is one.
    """
    if answers_yes_or_no(topic, text) or shows(topic, text):
        return None
    request, said = request_of(topic.text), read(text)
    if not text.isascii() and 2 * len(FOREIGN.findall(text)) > said.letters:
        return None if request.script else Finding.GARBAGE
    if text.rstrip(".") in _SHELLS:
        return Finding.GARBAGE
    if is_spelled(request, text):
        return None
    if said.letters < BRIEF:
        return None if is_formula(request, text) or is_symbol(request, text) else Finding.GARBAGE
    shared = shared_words(request.reading, said)
    repeated = int(np.count_nonzero(np.logical_or.reduce(shared, axis=0)))
    case = Case(topic, request, response, text, said, shared, repeated, cosine)
    if not _is_language(case):
        return Finding.GARBAGE
    if topic.courtesy or request.small_talk or (request.language and said.known < KNOWN_FOREIGN * said.letters):
        return None
    if text[-1] in ",;:" and said.words <= 2 * BRIEF and not request.code:
        return Finding.UNFINISHED
    if text in topic.text and not (case.own_words and said.words <= 2 * BRIEF):
        return Finding.ECHO
    return _of_few_words(case) if said.words <= BRIEF else _of_sentences(case)


def _is_language(case: Case) -> bool:
    """Whether a text is made of English words, or of what else the prompt asks for."""
    request, text, said = case.request, case.text, case.said
    if any(map(text.__contains__, _PLACEHOLDERS)):
        return request.invented
    if not request.code and _HEXADECIMAL.search(text):
        return False
    code = is_code(request, text)
    unusual = code or is_formula(request, text) or request.symbols
    if len(text) <= SHORT and not unusual and len(_ODD.findall(text)) > ODD * len(text):
        return False
    if said.known >= KNOWN * said.letters:
        return True
    if said.letters <= LETTERS and unusual:
        return len(text) <= (SYMBOLS if code or is_formula(request, text) else COMMAND)
    some = said.known >= KNOWN_UNUSUAL * said.letters
    if code and some:
        return True
    if request.language:
        return plausible(text) >= PLAUSIBLE_FOREIGN
    few = said.words <= BRIEF
    named = (request.brief or request.invented) and is_name(case.response)
    repeats = request.own_words and case.repeated > 0
    return ((request.invented and some) or (few and (named or repeats))) and plausible(text) >= PLAUSIBLE


def _of_few_words(case: Case) -> Finding | None:
    """Whether a noun, a name or a number may answer the prompt."""
    request, text, said = case.request, case.text, case.said
    unknown = said.known < KNOWN * said.letters
    symbols = request.symbols and (unknown or case.response.strip().isupper())
    if case.asserted or symbols or is_formula(request, text) or is_amount(request, text):
        return None
    if (is_code(request, text) and not np.logical_and.reduce(said.hollow)) or (
        request.own_words and (case.repeated or text.strip(".!'\"") in case.topic.words.split())
    ):
        return None
    if not request.brief:
        return Finding.TERSE
    if unknown or (request.free and said.words > 1 and is_name(case.response)):
        return None
    if np.logical_and.reduce(said.hollow):  # also without any word of content
        return Finding.COURTESY
    if request.figures and not len(request.reading.stems):
        return Finding.OFF_TOPIC
    return None if case.related() >= case.least.noun else Finding.OFF_TOPIC


def _of_sentences(case: Case) -> Finding | None:
    """Whether a text in words says something new, about the prompt, in an order that English has."""
    request, text, said = case.request, case.text, case.said
    if np.logical_and.reduce(said.hollow):  # also without any word of content
        return None if case.asserted or not len(request.reading.stems) else Finding.COURTESY
    ordered, ended = order(said)
    repeated = case.repeated / len(said.stems)
    if repeated == 1 and not (ordered >= 0 and (case.own_words or case.asserted)):
        return Finding.ECHO
    beginning = case.topic.text[:PREFIX]
    if text.startswith(beginning) and (repeated > REPEATED or text.count(beginning) > 1 or ended < 0):
        return Finding.ECHO
    related = case.related()
    if related < _least_related(case):
        return Finding.OFF_TOPIC
    if is_code(request, text) and (related >= 0 or case.repeated):
        return None
    if ordered < (ORDER_PILE if len(said.stems) > PILED * said.words else ORDER) or ended < ORDER_END:
        return Finding.SALAD
    return None if min(ordered, ENOUGH_ORDER) + min(related, ENOUGH_RELATED) >= BOTH else Finding.SALAD


def _least_related(case: Case) -> float:
    if not len(case.request.reading.stems):
        return -math.inf
    if case.request.free:
        return case.least.free
    if case.request.brief:
        return case.least.brief
    if case.said.words <= PHRASE:
        return case.least.phrase
    if case.said.words <= SENTENCE:
        return case.least.sentence
    return case.least.sentences if case.said.words <= LONG else case.least.text
