"""Texts to vectors, for policies that are no language models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from waltz_env.errors import UsageError
from waltz_env.sentence_encoder import SentenceEncoder
from waltz_env.untrusted_text import encodable

__all__ = ["CachedEncoder", "Encoder", "HashedNgrams", "SentenceEncoder"]

_REMEMBERED = 16_384


class Encoder(Protocol):
    """Anything that turns texts into vectors.

    Attributes:
        size: of a vector.
    """

    @property
    def size(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector for each text, in order: shape (len(texts), size) float32, every value from -1 to 1."""
        ...


class HashedNgrams:
    """Counts of n-grams, hashed into ``size`` columns and scaled to length 1 (scikit-learn's ``HashingVectorizer``).

    There is nothing to fit: the same text always has the same vector, and an empty text has zeros.

    Args:
        size: of a vector. Fewer columns generalise from fewer games, more of them tell more n-grams apart.
        analyzer: what n-grams are made of: ``"char_wb"`` characters within words, which forgives spelling, ``"char"``
            characters across words, or ``"word"`` words.
        ngrams: length of the shortest and of the longest.

    Raises:
        UsageError: scikit-learn is not installed, or it refuses a setting.
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
            raise UsageError("Hashed n-grams need scikit-learn: pip install 'waltz-env[sb3]'") from error
        self.size = size
        self._vectorizer: Any = HashingVectorizer(
            n_features=size, analyzer=analyzer, ngram_range=ngrams, dtype=np.float32
        )
        try:
            self._vectorizer.transform([""])
        except ValueError as error:
            raise UsageError(f"HashedNgrams cannot be made with these settings: {error}") from error

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector for each text, shape (len(texts), size) float32."""
        if not texts:
            return np.zeros((0, self.size), np.float32)
        # A language model may write lone surrogates, which no hash of UTF-8 bytes takes.
        return self._vectorizer.transform([encodable(text) for text in texts]).toarray()


class CachedEncoder:
    """Remembers the vectors of the texts its encoder saw last: prompts and ready-made actions come again and again.

    ``EncodedEnv`` and ``SingleAgentEnv`` make one of any encoder they are given. Give the same one to several
    environments, and they share it.

    Args:
        encoder: what is asked about new texts.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._vectors: dict[str, NDArray[np.float32]] = {}

    @property
    def size(self) -> int:
        """Of a vector."""
        return self.encoder.size

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector for each text, shape (len(texts), size) float32."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        found = dict(zip(new, self.encoder.encode(new), strict=True)) if new else {}
        vectors = [found[text] if text in found else self._vectors[text] for text in texts]
        if len(self._vectors) + len(found) > _REMEMBERED:
            self._vectors.clear()
        self._vectors.update(found)
        return np.array(vectors, np.float32).reshape(len(texts), self.size)


def cached(encoder: Encoder | None) -> CachedEncoder:
    """``encoder`` with a memory, if it has none yet; None: hashed n-grams."""
    return encoder if isinstance(encoder, CachedEncoder) else CachedEncoder(encoder or HashedNgrams())
