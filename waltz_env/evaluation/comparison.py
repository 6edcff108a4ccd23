"""Paired comparison of two systems on the same prompts: difference of a rate, its interval and its p-value.

Several games on one prompt are not independent, so the unit that is resampled is the prompt, not the game. The interval
is a percentile bootstrap. The p-value is of a test that flips the sign of each prompt's difference at random (Dror et
al., 2018).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from waltz_env.errors import UsageError
from waltz_env.evaluation.metrics import OUTCOMES, or_none
from waltz_env.types import Prompt, Trajectory

RESAMPLES = 10_000
CHUNK = 500


@dataclass(frozen=True, slots=True)
class Difference:
    """The rate of one system minus the rate of another. All numbers are NaN if ``n`` is 0.

    Attributes:
        difference: the difference, in [-1, 1].
        low: lower end of the 95 % bootstrap interval; NaN if ``n`` is 1, because one prompt tells nothing about others.
        high: upper end of the interval.
        p_value: two-sided p-value of the hypothesis that there is no difference.
        n: number of prompts on which both systems have judged games.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Returns the fields for JSON, with None in place of NaN, which JSON does not have."""
        return {name: or_none(value) for name, value in asdict(self).items()}


def compare(ours: Sequence[Trajectory], theirs: Sequence[Trajectory], *, seed: int = 0) -> dict[str, Difference]:
    """Compares ``asr``, ``orr`` and ``r_c`` of final responses: the rate of ``ours`` minus the rate of ``theirs``.

    Args:
        ours: games of one system.
        theirs: games of another system on the same prompts in the same order. If the judge failed on one of two games,
            both are left out.
        seed: seed of the resampling.

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


def paired(ours: Sequence[Trajectory], theirs: Sequence[Trajectory]) -> tuple[list[Trajectory], list[Trajectory]]:
    """The games that both systems have, prompt by prompt; several games on one prompt are paired in their order."""
    mine, others = _by_prompt(ours), _by_prompt(theirs)
    common = [key for key in mine if key in others]
    return [mine[key] for key in common], [others[key] for key in common]


def _by_prompt(games: Sequence[Trajectory]) -> dict[tuple[Prompt, int], Trajectory]:
    """Games by their prompt and their number among the games on it."""
    numbers: Counter[Prompt] = Counter()
    result = {}
    for game in games:
        result[game.prompt, numbers[game.prompt]] = game
        numbers[game.prompt] += 1
    return result


def draw_prompts(rng: np.random.Generator, prompts: int, size: int) -> NDArray[np.int64]:
    """Returns how often each prompt is drawn in each resample, (size, P). A prompt brings all its games."""
    return rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=size)


def _difference(pairs: Sequence[tuple[Trajectory, Trajectory]], metric: str, seed: int) -> Difference:
    outcome = OUTCOMES[metric]
    by_prompt: dict[Prompt, list[float]] = defaultdict(list)  # one difference per pair of games
    for ours, theirs in pairs:
        mine, other = outcome(ours.prompt, ours.final), outcome(theirs.prompt, theirs.final)
        if mine is not None and other is not None:
            by_prompt[ours.prompt].append(float(mine) - float(other))
    if not by_prompt:
        return Difference(math.nan, math.nan, math.nan, math.nan, 0)
    sums = np.array([sum(differences) for differences in by_prompt.values()])  # (P,), P prompts
    sizes = np.array([len(differences) for differences in by_prompt.values()])  # (P,) pairs of games
    rng = np.random.default_rng(seed)
    resampled, extreme = [], 0
    for start in range(0, RESAMPLES, CHUNK):  # in chunks to limit memory: there may be tens of thousands of prompts
        size = min(CHUNK, RESAMPLES - start)
        drawn = draw_prompts(rng, len(sums), size)  # bootstrap
        resampled.append((drawn @ sums) / (drawn @ sizes))
        # Sign flips: if there is no difference, each prompt's sum could as well have the other sign.
        flipped = rng.choice([-1.0, 1.0], size=(size, len(sums))) @ sums
        extreme += int(np.count_nonzero(np.abs(flipped) >= abs(sums.sum()) - 1e-9))
    low, high = np.quantile(np.concatenate(resampled), [0.025, 0.975]) if len(sums) > 1 else (math.nan, math.nan)
    # The observed signs count as one of the flips, so the p-value is never 0.
    p_value = (1 + extreme) / (1 + RESAMPLES)
    return Difference(float(sums.sum() / sizes.sum()), float(low), float(high), float(p_value), len(sums))
