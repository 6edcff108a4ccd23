"""Statistics over seeds: mean, interval, and a paired interval for two systems."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """The mean over ``n`` seeds with its 95 % t interval. The ends are NaN for one seed, the mean too for none."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """Returns the mean and its 95 % interval by Student's t, which assumes that values are normal over seeds.

    >>> result = mean_interval([1.0, 2.0, 3.0])
    >>> round(result.low, 2), result.mean, round(result.high, 2)
    (-0.48, 2.0, 4.48)
    """
    from scipy.stats import t

    if not values:
        return MeanInterval(math.nan, math.nan, math.nan, 0)
    mean = statistics.fmean(values)
    if len(values) == 1:
        return MeanInterval(mean, math.nan, math.nan, 1)
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return MeanInterval(mean, mean - half, mean + half, len(values))


def paired_interval(ours: Mapping[int, float], theirs: Mapping[int, float]) -> MeanInterval:
    """Returns ``mean_interval`` of our value minus theirs, over the seeds that both have.

    >>> paired_interval({0: 0.5, 1: 1.0, 2: 0.25}, {0: 0.25, 1: 0.5}).mean
    0.375

    Args:
        ours: our value by seed.
        theirs: their value by seed.
    """
    return mean_interval([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
