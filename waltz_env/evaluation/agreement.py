"""How far two judges agree on the same games: each judge's rates, and Cohen's kappa with an interval over prompts.

Cohen's kappa is 1 - d / e: ``d`` is the share of responses on which the judges differ, and ``e`` the share on which
they would differ if each kept its rate and labeled independently of the other. It is 1 for judges that always agree, 0
for judges that agree no more than by chance, and negative below that. The interval is a percentile bootstrap. As in
``compare``, it draws prompts, not games.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from waltz_env.errors import UsageError
from waltz_env.evaluation.comparison import CHUNK, RESAMPLES, draw_prompts
from waltz_env.evaluation.metrics import OUTCOMES, Proportion, or_none, proportion
from waltz_env.types import Judgement, Prompt, Trajectory


@dataclass(frozen=True, slots=True)
class Agreement:
    """What two judges say of the same final responses, for one rate.

    Attributes:
        first: rate under the first judge.
        second: rate under the second judge, of the same responses.
        kappa: Cohen's kappa. NaN if there are no responses, or if both judges give all of them the same label.
        low: lower end of its 95 % bootstrap interval; NaN if the responses are on fewer than two prompts.
        high: upper end of the interval.
        differ: number of responses on which the judges differ.
    """

    first: Proportion
    second: Proportion
    kappa: float
    low: float
    high: float
    differ: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields for JSON, with None in place of NaN, which JSON does not have."""
        kappa = {"value": or_none(self.kappa), "low": or_none(self.low), "high": or_none(self.high), "n": self.first.n}
        return {
            "first": self.first.as_dict(),
            "second": self.second.as_dict(),
            "kappa": kappa,
            "differ": self.differ,
        }


def compare_judges(first: Sequence[Trajectory], second: Sequence[Trajectory], *, seed: int = 0) -> dict[str, Agreement]:
    """Compares two judges by what ``asr``, ``orr`` and ``r_c`` count of final responses.

    Args:
        first: games with the labels of the first judge.
        second: the same games in the same order, with the labels of the second judge. A game on which one of the judges
            has no verdict is left out.
        seed: seed of the resampling.

    Raises:
        UsageError: these are not the same games.
    """
    pairs = [pair for pair in paired_games(first, second) if pair[0].judged and pair[1].judged]
    return {name: _agreement(pairs, name, seed) for name in OUTCOMES}


def same_labels(first: Sequence[Trajectory], second: Sequence[Trajectory]) -> Proportion:
    """Returns the share of all responses with labels from both judges to which both give the same two labels.

    Raises:
        UsageError: these are not the same games.
    """
    cases = [
        (one.prompt, old.labels == new.labels)
        for one, other in paired_games(first, second)
        for old, new in zip(one.responses, other.responses, strict=True)
        if old.labels is not None and new.labels is not None
    ]
    return proportion((case for _, case in cases), prompts=(prompt for prompt, _ in cases))


def paired_games(first: Sequence[Trajectory], second: Sequence[Trajectory]) -> list[tuple[Trajectory, Trajectory]]:
    """Pairs each game with the same game under another judge.

    Raises:
        UsageError: these are not the same games.
    """
    if [texts(game) for game in first] != [texts(game) for game in second]:
        raise UsageError(
            f"Two judges are compared on the same games in the same order; got {len(first)} and {len(second)} games "
            "that differ. Judge the first ones again: waltz rejudge."
        )
    return list(zip(first, second, strict=True))


def texts(game: Trajectory) -> tuple[object, ...]:
    """Returns what makes a game the same game under any judge: its prompt and what was said."""
    return game.prompt, *(response.text for response in game.responses)


def judge_names(games: Sequence[Trajectory]) -> str:
    """Returns the name of the judge that gave the labels, or of several of them; empty if there are no labels."""
    judgements = (response.judgement for game in games for response in game.responses)
    return ", ".join(sorted({each.judge for each in judgements if isinstance(each, Judgement)}))


def _agreement(pairs: Sequence[tuple[Trajectory, Trajectory]], metric: str, seed: int) -> Agreement:
    outcome = OUTCOMES[metric]
    cases: list[tuple[Prompt, bool, bool]] = []
    for one, other in pairs:
        old, new = outcome(one.prompt, one.final), outcome(other.prompt, other.final)
        if old is not None and new is not None:
            cases.append((one.prompt, old, new))
    prompts = [prompt for prompt, _, _ in cases]
    counts: dict[Prompt, NDArray[np.int64]] = defaultdict(lambda: np.zeros((2, 2), dtype=np.int64))
    for prompt, old, new in cases:
        counts[prompt][int(old), int(new)] += 1
    tables = np.array(list(counts.values())).reshape(-1, 2, 2)  # (P, 2, 2), P prompts
    low, high = _interval(tables, seed)
    return Agreement(
        proportion((old for _, old, _ in cases), prompts=prompts),
        proportion((new for _, _, new in cases), prompts=prompts),
        float(_kappas(tables.sum(axis=0)[None])[0]),
        low,
        high,
        sum(old != new for _, old, new in cases),
    )


def _interval(tables: NDArray[np.int64], seed: int) -> tuple[float, float]:
    """Ends of the interval of kappa. Draws in which both judges give one label alone have no kappa and are left out."""
    number = len(tables)
    if number < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    found = []
    for start in range(0, RESAMPLES, CHUNK):
        drawn = draw_prompts(rng, number, min(CHUNK, RESAMPLES - start))
        found.append(_kappas(np.tensordot(drawn, tables, axes=1)))
    kappas = np.concatenate(found)
    kappas = kappas[~np.isnan(kappas)]
    if not kappas.size:
        return math.nan, math.nan
    low, high = np.quantile(kappas, [0.025, 0.975])
    return float(low), float(high)


def _kappas(tables: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cohen's kappa (R,) of tables (R, 2, 2), which count responses by the label of each judge; NaN if undefined."""
    total = tables.sum(axis=(1, 2))
    first, second = tables.sum(axis=2), tables.sum(axis=1)  # (R, 2), responses by each judge's label
    differ = (tables[:, 0, 1] + tables[:, 1, 0]) * total
    by_chance = first[:, 0] * second[:, 1] + first[:, 1] * second[:, 0]  # times total, as above
    return np.where(by_chance > 0, 1 - differ / np.maximum(by_chance, 1), np.nan)
