"""What is known of English: which words it has, in which order they stand, and what they are about.

``benchmarks/fit_language.py`` fits the tables (see ``data/NOTICE``). They hold numbers alone, and checksums of words.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FIRST, LAST = 600, 300
"""Characters that are read of a long text: from its start, and from its end."""
MARKS = {"9": 0, "\n": 1, ".": 2, ",": 3, ":": 4, "(": 5, '"': 6, "|": 7}
"""Classes of what is no word: a number, the marks, and ``|`` for the edge of a text. Those of words follow."""
EDGE = "|"
RAREST_PAIR, CORPUS = 11.513, 27.656
"""Logarithms of the smallest count of a pair of words, and of the number of words that were counted."""
LIMIT = 3.0
"""Nats that one pair of words counts at most, for or against an order."""
PAIR_STEPS, ORDER_STEPS, LETTER_STEPS, LENGTH_STEPS = 40, 24, 12, 200
"""Steps of an 8-bit table for one nat, or for one unit of a vector's length."""

STRANGE = 0.6
"""Weight of a word without a vector: that of a rare word."""

_TOKEN = re.compile(r"[a-z]+|\d+|[.!?]+|[,;:()\"]|\n+")
_MARK_OF = {"!": ".", "?": ".", ";": ",", ")": "("}
_LIGATURES = str.maketrans(
    {"\u0142": "l", "\u00f8": "o", "\u00df": "ss", "\u00e6": "ae", "\u0153": "oe", "\u0111": "d", "\u0131": "i"}
)
_ENDINGS = ("ly", "s", "ness", "ed", "ing")
_REMEMBERED = 1 << 16

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class Indices(dict[str, int]):
    """The index of each token: those of known words come first, then those of marks, then one for each unknown word."""

    def __init__(self, checksums: Mapping[int, int]) -> None:
        super().__init__()
        self._checksums = checksums
        self.words = len(checksums)
        self.unknown = self.words + len(MARKS)

    def __missing__(self, token: str) -> int:
        if len(self) >= _REMEMBERED:
            self.clear()
        if token[0].isalpha():
            checksum = zlib.crc32(token.encode())
            index = self._checksums.get(checksum)
            for ending in _ENDINGS if index is None and len(token) > 5 else ():
                if index is None and token.endswith(ending):
                    index = self._checksums.get(zlib.crc32(token.removesuffix(ending).encode()))
            self[token] = self.unknown + checksum if index is None else index
        else:
            self[token] = self.words + MARKS["9" if token[0].isdigit() else _MARK_OF.get(token[0], token[0])]
        return self[token]


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """The fitted numbers: I indices (words, marks, and one for all unknown words), D dimensions, C classes, B pairs.

    Attributes:
        indices: the index of each token.
        kinds: class of each index, shape (I,) int64.
        stems: number of the word's stem, shape (I,) int64.
        letters: number of letters of a known word, else 0, shape (I,) int64.
        rarity: half of the evidence, in nats, against a pair of two such words that was never counted, before it is
            limited, shape (I,) float32.
        topical: whether the word says something about a topic, shape (I,) bool.
        hollow: whether the word talks about an answer in place of giving one, shape (I,) bool.
        rows: row of the word's vector, shape (I,) int64.
        vectors: unit vectors of words, shape (R, D) float32; the last is zero, for words without one.
        weights: the lengths with which their sum is near to a sentence encoder's vector, shape (R,) float32.
        roots: square roots of the weights, shape (R,) float32.
        pairs: numbers of the counted pairs of words, sorted, shape (B,) int64.
        affinities: logarithm of how much more often than by chance each occurs, in nats, shape (B,) float32.
        order: evidence in nats of two neighboring classes, and of two with one between, shape (2, C * C) float32.
        order_terms: coefficients of affinity and length, and a constant, shape (3,) float32.
        relevance: coefficients of ``relevance.features``, the constant last, shape (F,) float32.
        trigrams: log-probability of a letter after two others, shape (27 * 27 * 27,) int8; 0 is no letter.
    """

    indices: Indices
    kinds: Integers
    stems: Integers
    letters: Integers
    rarity: Floats
    topical: NDArray[np.bool_]
    hollow: NDArray[np.bool_]
    rows: Integers
    vectors: Floats
    weights: Floats
    roots: Floats
    pairs: Integers
    affinities: Floats
    order: Floats
    order_terms: Floats
    relevance: Floats
    trigrams: NDArray[np.int8]


class Reading(NamedTuple):
    """A text, read.

    Attributes:
        tokens: index of each word, number and mark, between two edges, shape (T + 2,) int64.
        words: number of its words.
        letters: number of their letters.
        known: number of the letters of known words.
        stems: stem of each word of its topic, shape (S,) int64.
        hollow: which of these words talk about an answer in place of giving one, shape (S,) bool.
        vectors: unit vectors of these words, zero where there is none, shape (S, D) float32.
        weights: their weights, shape (S,) float32.
        roots: square roots of their weights, shape (S,) float32.
        total: sum of their weights.
        sense: unit vector of all words together, shape (D,) float32.
    """

    tokens: Integers
    words: int
    letters: int
    known: int
    stems: Integers
    hollow: NDArray[np.bool_]
    vectors: Floats
    weights: Floats
    roots: Floats
    total: float
    sense: Floats


@lru_cache(maxsize=1)
def tables() -> Tables:
    """The tables of the package, read once."""
    with (files("waltz_env.judges") / "data" / "language.npz").open("rb") as file, np.load(file) as arrays:
        return made({name: arrays[name] for name in arrays.files})


def made(arrays: Mapping[str, NDArray[Any]]) -> Tables:
    """Tables from the arrays of a file of ``benchmarks/fit_language.py``."""
    data: dict[str, Any] = dict(arrays)
    keys, scaled = data.pop("keys").tolist(), data.pop("vectors").astype(np.float32)
    integers = {name: data.pop(name).astype(np.int64) for name in ("kinds", "stems", "letters", "rows")}
    weights = (data.pop("lengths") / LENGTH_STEPS).astype(np.float32)
    return Tables(
        indices=Indices(dict(zip(keys, range(len(keys)), strict=True))),
        vectors=scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1),
        weights=weights,
        roots=np.sqrt(weights),
        pairs=np.cumsum(data.pop("gaps"), dtype=np.int64),
        affinities=(data.pop("affinities") / PAIR_STEPS).astype(np.float32),
        rarity=(RAREST_PAIR + CORPUS) / 2 - data.pop("frequency").astype(np.float32),
        order=data.pop("order").astype(np.float32) / ORDER_STEPS,
        **(data | integers),
    )


def read(text: str, known: Tables | None = None) -> Reading:
    """Reads ``text``, an output of ``plain``, with the tables of the package or with others."""
    known = known or tables()
    if len(text) > FIRST + LAST:
        text = f"{text[:FIRST]}\n{text[-LAST:]}"
    text = without_accents(text).replace("'", "")
    tokens = [EDGE, *_TOKEN.findall(text), EDGE]
    every = indices = np.fromiter(map(known.indices.__getitem__, tokens), np.int64, len(tokens))
    unknown = known.indices.unknown
    strangers = np.maximum.reduce(every) >= unknown
    if strangers:
        indices = np.minimum(every, unknown)
    topical = known.topical.take(indices).nonzero()[0]
    content = indices.take(topical)
    stems = known.stems.take(content)
    letters = int(np.add.reduce(known.letters.take(indices)))
    words, strange = int(np.count_nonzero(indices < known.indices.words)), 0
    if strangers:
        places = (indices == unknown).nonzero()[0].tolist()
        strange, words = sum(len(tokens[place]) for place in places), words + len(places)
        stems = np.where(content == unknown, every.take(topical), stems)
    rows = known.rows.take(indices)
    vectors, weights = known.vectors.take(rows, axis=0), known.weights.take(rows)
    sense = weights @ vectors
    rows, vectors, weights = rows.take(topical), vectors.take(topical, axis=0), weights.take(topical)
    return Reading(
        tokens=indices,
        words=words,
        letters=letters + strange,
        known=letters,
        stems=stems,
        hollow=known.hollow.take(content),
        vectors=vectors,
        weights=weights,
        roots=known.roots.take(rows),
        total=float(np.add.reduce(weights)),
        sense=sense * (1 / max(float(sense @ sense) ** 0.5, 1e-6)),
    )


def affinities(tokens: Integers, known: Tables) -> Floats:
    """How much more often than by chance each two neighbors of T tokens stand together, in nats, shape (T - 1,)."""
    # Numbers of pairs with a mark or an unknown word are none of a counted pair, and their rarity is large.
    numbers = (tokens[:-1] << 16) | tokens[1:]
    places = known.pairs.searchsorted(numbers)
    rarity = known.rarity.take(tokens)
    # A pair that was not counted occurs at most as often as the rarest one that was.
    evidence = rarity[:-1] + rarity[1:]
    np.minimum(evidence, 0, out=evidence)
    np.maximum(evidence, -LIMIT, out=evidence)
    np.copyto(
        evidence,
        known.affinities.take(places, mode="clip"),
        where=known.pairs.take(places, mode="clip") == numbers,
    )
    return evidence


def order(reading: Reading, known: Tables | None = None) -> tuple[float, float]:
    """Log-odds that the words stand in an order of English and are no random ones, were either as likely before.

    Returns:
        That of the whole text, and that of its second half.
    """
    known = known or tables()
    kinds = known.kinds.take(reading.tokens)
    rows = kinds * (int(known.kinds[-1]) + 1)
    of_affinity, of_length, constant = known.order_terms.tolist()
    evidence = affinities(reading.tokens, known)
    evidence *= of_affinity
    evidence += known.order[0].take(rows[:-1] + kinds[1:])
    evidence[1:] += known.order[1].take(rows[:-2] + kinds[2:])
    size = len(reading.tokens) - 2
    half = (size + 1) // 2
    ended = float(np.add.reduce(evidence[half:]))
    whole = ended + float(np.add.reduce(evidence[:half]))
    roots = max(size, 1) ** 0.5, max(size - half, 1) ** 0.5
    scores = [total / root + of_length * root + constant for total, root in zip((whole, ended), roots, strict=True)]
    return scores[0], scores[1]


def plausible(text: str, known: Tables | None = None) -> float:
    """Mean log-probability of a letter after the two before it: near to -2.5 for English, below -3.5 for mash."""
    numbers = [0, 0, *(ord(letter) - 96 if "a" <= letter <= "z" else 0 for letter in without_accents(text)), 0]
    places = [27 * (27 * a + b) + c for a, b, c in zip(numbers, numbers[1:], numbers[2:], strict=False) if b or c]
    return float((known or tables()).trigrams.take(places).mean()) / LETTER_STEPS if places else 0.0


def without_accents(text: str) -> str:
    """Latin letters without their accents."""
    if text.isascii():
        return text
    parts = unicodedata.normalize("NFD", text.translate(_LIGATURES))
    return "".join(letter for letter in parts if not unicodedata.combining(letter))
