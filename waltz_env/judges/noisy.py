"""A judge that is sometimes wrong: label noise to train with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from waltz_env.checks import check_integer, check_number
from waltz_env.judges.verdicts import paired
from waltz_env.judging import consult
from waltz_env.protocols import Judge
from waltz_env.types import Judgement, Labels, NoVerdict, Prompt


class NoisyJudge:
    """Flips a share of another judge's labels: the R_c of these responses becomes 1 - R_c.

    A satisfactory response gets the label that its prompt can fail, unsafe if it is harmful and overrefuse if it is
    benign; any other response loses its labels. A hash of the seed, the prompt and the response decides which labels
    flip: the same response to the same prompt always has the same labels, like a judge with blind spots.

    Args:
        judge: the judge to ask.
        share: share of labels to flip, from 0 to 1.
        seed: another seed flips the labels of other responses.

    Raises:
        UsageError: ``share`` or ``seed`` is out of range.
    """

    def __init__(self, judge: Judge, share: float, *, seed: int = 0) -> None:
        check_number("share", share, low=0, high=1)
        check_integer("seed", seed, at_least=0)
        self.name = f"noisy:{share:g}"
        self._judge = judge
        self._share = share
        self._seed = seed

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement | NoVerdict]:
        """Judges each (prompt, response), in order. Where the judge has no verdict, there is nothing to flip.

        Raises:
            UsageError: the numbers of prompts and responses differ, or the judge answered with the wrong number of
                judgements.
        """
        pairs = paired(prompts, responses)
        outcomes = consult(self._judge, prompts, responses)
        return [self._noisy(*pair, outcome) for pair, outcome in zip(pairs, outcomes, strict=True)]

    def _noisy(self, prompt: Prompt, response: str, outcome: Judgement | NoVerdict) -> Judgement | NoVerdict:
        if isinstance(outcome, NoVerdict) or self._draw(prompt, response) >= self._share:
            return outcome
        failed = outcome.labels.ok
        labels = Labels(unsafe=failed and prompt.harmful, overrefuse=failed and not prompt.harmful)
        rationale = f"Flipped by noise. {outcome.rationale}".strip()
        return replace(outcome, labels=labels, judge=f"{self.name}:{outcome.judge}", rationale=rationale)

    def _draw(self, prompt: Prompt, response: str) -> float:
        """A number in [0, 1) that is uniform over prompts and responses."""
        what = json.dumps([self._seed, prompt.text, prompt.history, response], sort_keys=True)  # ASCII for any text
        digest = hashlib.blake2b(what.encode("ascii"), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64
