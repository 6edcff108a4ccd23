"""Is a text about what its prompt is about? Shared words and related ones, weighed by a logistic regression."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from waltz_env.judges.language import Reading, Tables, tables


def relevance(prompt: Reading, text: Reading, shared: NDArray[np.bool_], known: Tables | None = None) -> float:
    """Log-odds that the text belongs to the prompt, in nats, were either as likely before."""
    coefficients = (known or tables()).relevance
    return float(np.array(features(prompt, text, shared), np.float32) @ coefficients[:-1] + coefficients[-1])


def shared_words(prompt: Reading, text: Reading) -> NDArray[np.bool_]:
    """Which words of content are forms of one word, shape (words of the prompt, words of the text)."""
    return prompt.stems[:, None] == text.stems


def features(prompt: Reading, text: Reading, shared: NDArray[np.bool_]) -> list[float]:
    """What the two have in common, and products of that with their lengths: 19 numbers."""
    of_prompt, of_text = prompt.weights, text.weights
    asked, said = math.log1p(len(of_prompt)), math.log1p(len(of_text))
    if len(of_prompt) and len(of_text):
        near = prompt.vectors @ text.vectors.T  # (P, T): cosine similarity of each pair of words
        np.putmask(near, shared, 1)
        nearest_said, nearest_asked = np.maximum.reduce(near, axis=0), np.maximum.reduce(near, axis=1)
        # A pair of words weighs as much as the geometric mean of its weights.
        near *= prompt.roots[:, None]
        near *= text.roots
        common = [
            float(prompt.sense @ text.sense),
            float(nearest_said @ of_text) / text.total,
            float(nearest_asked @ of_prompt) / prompt.total,
            float(np.maximum.reduce(near, axis=None)),
            float(of_text @ np.logical_or.reduce(shared, axis=0)) / text.total,
            float(of_prompt @ np.logical_or.reduce(shared, axis=1)) / prompt.total,
            float(np.maximum.reduce(nearest_said)),
        ]
    else:
        common = [0.0] * 7
    sense = common[0]
    return [*common, asked, said, *[each * said for each in common], sense * sense, sense * common[3], said * said]
