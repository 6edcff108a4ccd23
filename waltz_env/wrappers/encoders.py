"""Encoders: texts to vectors, for policies that are not language models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from waltz_env.errors import UsageError
from waltz_env.extras import install_command
from waltz_env.sentence_encoder import SentenceEncoder
from waltz_env.untrusted_text import encodable

__all__ = ["CachedEncoder", "Encoder", "HashedNgrams", "SentenceEncoder"]

_REMEMBERED = 16_384


class Encoder(Protocol):
    """Anything that turns texts into vectors.

    Attributes:
        size: length of a vector.
    """

    @property
    def size(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns one vector per text, in order: shape (len(texts), size) float32, all values from -1 to 1."""
        ...


class HashedNgrams:
    """Counts of n-grams, hashed into ``size`` columns and scaled to length 1 (scikit-learn's ``HashingVectorizer``).

    There is nothing to fit: a text always has the same vector, and an empty text has zeros.

    Args:
        size: length of a vector. Fewer columns generalize from fewer games, more columns distinguish more n-grams.
        analyzer: the units of n-grams: ``"char_wb"`` for characters within words, which forgives spelling, ``"char"``
            for characters across words, ``"word"`` for words.
        ngrams: length of the shortest and of the longest n-gram.

    Raises:
        UsageError: scikit-learn is not installed or refuses a setting.
    """

    def __init__(
        self,
        size: int = 256,
        *,
        analyzer: Literal["char_wb", "char", "word"] = "char_wb",
        ngrams: tuple[int, int] = (2, 4),
    ) -> None:
        try:
            from sklearn.feature_extraction.text import HashingVectorizer
        except ModuleNotFoundError as error:
            raise UsageError(f"Hashed n-grams need scikit-learn. Install it: {install_command('sb3')}") from error
        self.size = size
        self._vectorizer: Any = HashingVectorizer(
            n_features=size, analyzer=analyzer, ngram_range=ngrams, dtype=np.float32
        )
        try:
            self._vectorizer.transform([""])
        except ValueError as error:
            raise UsageError(f"HashedNgrams cannot be made with these settings: {error}") from error

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns one vector per text, shape (len(texts), size) float32."""
        if not texts:
            return np.zeros((0, self.size), np.float32)
        # A language model may write lone surrogates, which no hash of UTF-8 bytes takes.
        return self._vectorizer.transform([encodable(text) for text in texts]).toarray()


class CachedEncoder:
    """Remembers the vectors of recent texts, because prompts and ready-made actions recur all the time.

    ``EncodedEnv`` and ``SingleAgentEnv`` wrap any other encoder in one. Environments that are given the same
    ``CachedEncoder`` share it.

    Args:
        encoder: encodes new texts.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._vectors: dict[str, NDArray[np.float32]] = {}

    @property
    def size(self) -> int:
        """Length of a vector."""
        return self.encoder.size

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns one vector per text, shape (len(texts), size) float32."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        encoded = dict(zip(new, self.encoder.encode(new), strict=True)) if new else {}
        vectors = [encoded[text] if text in encoded else self._vectors[text] for text in texts]
        if len(self._vectors) + len(encoded) > _REMEMBERED:
            self._vectors.clear()
        self._vectors.update(encoded)
        return np.array(vectors, np.float32).reshape(len(texts), self.size)


def cached(encoder: Encoder | None) -> CachedEncoder:
    """Wraps ``encoder`` in a ``CachedEncoder`` unless it is one; None means hashed n-grams."""
    return encoder if isinstance(encoder, CachedEncoder) else CachedEncoder(encoder or HashedNgrams())
