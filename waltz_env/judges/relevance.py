"""Is a text about what its prompt is about? Shared words and related ones, weighed by a logistic regression."""

from __future__ import annotations

import math
from operator import mul

import numpy as np
from numpy.typing import NDArray

from waltz_env.judges.language import Reading, Tables, tables


def relevance(prompt: Reading, text: Reading, shared: NDArray[np.bool_], known: Tables | None = None) -> float:
    """Log-odds that the text belongs to the prompt, in nats, were either as likely before."""
    *slopes, constant = (known or tables()).relevance.tolist()
    return sum(map(mul, slopes, features(prompt, text, shared)), constant)


def shared_words(prompt: Reading, text: Reading) -> NDArray[np.bool_]:
    """Which words of content are forms of one word, shape (words of the prompt, words of the text)."""
    return prompt.stems[:, None] == text.stems


def features(prompt: Reading, text: Reading, shared: NDArray[np.bool_]) -> list[float]:
    """What the two have in common, and products of that with their lengths: 15 numbers."""
    of_prompt, of_text = prompt.weights, text.weights
    asked, said = math.log1p(len(of_prompt)), math.log1p(len(of_text))
    sense, nearest_said, nearest_asked, nearest = float(prompt.sense @ text.sense), 0.0, 0.0, 0.0
    if len(of_prompt) and len(of_text):
        near = prompt.vectors @ text.vectors.T  # (P, T): cosine similarity of each pair of words
        np.putmask(near, shared, 1)
        nearest_said = float(np.maximum.reduce(near, axis=0) @ of_text) / text.total
        nearest_asked = float(np.maximum.reduce(near, axis=1) @ of_prompt) / prompt.total
        # A pair of words weighs as much as the geometric mean of its weights.
        near *= prompt.roots[:, None]
        near *= text.roots
        nearest = float(np.maximum.reduce(near, axis=None))
    common = (sense, nearest_said, nearest_asked, nearest)
    products = (sense * sense, sense * nearest, sense * asked, asked * said, said * said)
    return [*common, asked, said, *[each * said for each in common], *products]
