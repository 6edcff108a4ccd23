"""What does it cost to let fewer answers to other prompts pass? The trade-off of both judges, on the development split.

    python -m benchmarks.relevance_curve

For several shares of good answers that are lost, it prints the share of true sentences about something else, and of
good answers to another prompt, that would still count as being about the prompt. The answers have four words or more;
what is shorter is judged by its form as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.garbage import material
from waltz_env.judges.language import read
from waltz_env.judges.relevance import relevance, shared_words
from waltz_env.judges.request import request_of
from waltz_env.judges.text import plain
from waltz_env.sentence_encoder import SentenceEncoder

Pairs = Sequence[tuple[str, str]]
LOST, EACH, WORDS = (1, 2, 5, 10, 15), 600, 4


def by_words(pairs: Pairs) -> list[float]:
    """What ``RuleJudge`` compares with its thresholds."""
    found = []
    for prompt, text in pairs:
        asked, said = request_of(plain(prompt)).reading, read(plain(text))
        found.append(relevance(asked, said, shared_words(asked, said)))
    return found


def by_encoder(pairs: Pairs) -> list[float]:
    """What ``EmbeddingJudge`` compares with its thresholds."""
    encoder = SentenceEncoder(device="cpu")
    prompts, texts = (encoder.encode([plain(pair[i]) for pair in pairs]) for i in (0, 1))
    return (prompts * texts).sum(axis=1).tolist()


def main() -> None:
    """Prints the trade-off."""
    known, rng = material("development"), random.Random(0)
    good = [pair for pair in (*known.good, *known.replies) if len(pair[1].split()) >= WORDS]
    sentences = [(rng.choice(known.prompts), rng.choice(known.sentences)) for _ in range(EACH)]
    draws = [(rng.choice(known.prompts), *rng.choice(good)) for _ in range(EACH)]
    others = [(prompt, text) for prompt, own, text in draws if prompt != own]
    judges: dict[str, Callable[[Pairs], list[float]]] = {"rules": by_words, "embedding": by_encoder}
    print(f"{len(good)} good answers; % that still pass of")
    for name, score in judges.items():
        scores = np.split(np.array(score([*good, *sentences, *others])), np.cumsum([len(good), EACH]))
        for lost in LOST:
            least = np.percentile(scores[0], lost)
            wrong = [f"{100 * float((each >= least).mean()):3.0f}" for each in scores[1:]]
            print(f"{name:10} {lost:3} % lost: sentences {wrong[0]}, answers to another prompt {wrong[1]}")


if __name__ == "__main__":
    main()
