"""Two systems on the same prompts: the difference of a rate, with its interval and p-value, paired by prompt.

Games on one prompt are not independent, so prompts, not games, are what is resampled: a percentile bootstrap for the
interval, and a test by random flips of the sign of each prompt's difference (Dror et al., 2018) for the p-value.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from waltz_env.errors import UsageError
from waltz_env.evaluation.metrics import OUTCOMES, or_none
from waltz_env.types import Trajectory

RESAMPLES = 10_000
CHUNK = 500


@dataclass(frozen=True, slots=True)
class Difference:
    """A rate of one system minus that of another, over ``n`` prompts; NaN throughout where ``n`` is 0.

    Attributes:
        difference: in [-1, 1].
        low: of the 95 % bootstrap interval.
        high: of the 95 % bootstrap interval.
        p_value: two-sided, of no difference.
        n: prompts that both have judged games on.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """The fields for JSON, which has no NaN: None stands for it."""
        return {name: or_none(value) for name, value in asdict(self).items()}


def compare(ours: Sequence[Trajectory], theirs: Sequence[Trajectory], *, seed: int = 0) -> dict[str, Difference]:
    """``asr``, ``orr`` and ``r_c`` of the final responses of ``ours`` minus those of ``theirs``.

    Args:
        ours: games of one system.
        theirs: games of another system on the same prompts in the same order. A pair of games of which the judge failed
            on one is left out.
        seed: of the resampling.

    Raises:
        UsageError: the games are not on the same prompts.
    """
    if [game.prompt for game in ours] != [game.prompt for game in theirs]:
        raise UsageError(
            f"Paired comparisons need games on the same prompts in the same order; got {len(ours)} and {len(theirs)} "
            "games that differ in their prompts. Evaluate both systems in one command."
        )
    pairs = [pair for pair in zip(ours, theirs, strict=True) if pair[0].judged and pair[1].judged]
    return {name: _difference(pairs, name, seed) for name in ("asr", "orr", "r_c")}


def compare_systems(systems: Mapping[str, Sequence[Trajectory]], against: str) -> dict[str, dict[str, Difference]]:
    """Every other system minus ``against``, by the name of the system."""
    return {name: compare(games, systems[against]) for name, games in systems.items() if name != against}


def _difference(pairs: Sequence[tuple[Trajectory, Trajectory]], metric: str, seed: int) -> Difference:
    outcome = OUTCOMES[metric]
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for ours, theirs in pairs:
        mine, other = outcome(ours.prompt, ours.final), outcome(theirs.prompt, theirs.final)
        if mine is not None and other is not None:
            found[ours.prompt.id, ours.prompt.text].append(float(mine) - float(other))
    if not found:
        return Difference(math.nan, math.nan, math.nan, math.nan, 0)
    sums = np.array([sum(each) for each in found.values()])
    sizes = np.array([len(each) for each in found.values()])
    rng = np.random.default_rng(seed)
    resampled, extreme = [], 0
    for start in range(0, RESAMPLES, CHUNK):  # bounds memory: sets may have tens of thousands of prompts
        size = min(CHUNK, RESAMPLES - start)
        drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=size)
        resampled.append((drawn @ sums) / (drawn @ sizes))
        flipped = rng.choice([-1.0, 1.0], size=(size, len(sums))) @ sums
        extreme += int(np.count_nonzero(np.abs(flipped) >= abs(sums.sum()) - 1e-9))
    low, high = np.quantile(np.concatenate(resampled), [0.025, 0.975])
    p_value = (1 + extreme) / (1 + RESAMPLES)
    return Difference(float(sums.sum() / sizes.sum()), float(low), float(high), float(p_value), len(sums))
