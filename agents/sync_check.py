"""Whether a sampler holds the weights that it should: two readings of the same tokens are compared.

A sampler that uses other kernels and another precision never agrees exactly with the trainer. A stale adapter can hide
in that noise, because after one update it is off by less than rounding is. The change cannot hide: between two syncs
the trainer's log-probabilities of fixed tokens move in a definite direction, and a sampler that received the new
weights moves along it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from waltz_env.errors import SyncError

_LEAST_ARRIVED = 0.5  # a stale sampler shows 0 of the trainer's change, a synced one 1
_BENEFIT_OF_DOUBT = 3.0  # standard errors that are added to the measured share before it is compared


@dataclass(frozen=True, slots=True)
class Reading:
    """Log-probabilities of the probe tokens in the trainer and in the sampler, each (N,) float32, in nats."""

    trainer: Tensor
    sampler: Tensor


@dataclass(frozen=True, slots=True)
class SyncReport:
    """How well sampler and trainer agree after a sync.

    Attributes:
        gap_mean: mean absolute difference of their log-probabilities, in nats.
        gap_max: largest absolute difference, in nats.
        change: root mean square of the change in the trainer's log-probabilities since the previous reading, in nats.
        arrived: share of that change that the sampler shows: 1 all of it, 0 none.
        arrived_error: standard error of ``arrived``; infinite if nothing changed.
    """

    gap_mean: float
    gap_max: float
    change: float
    arrived: float
    arrived_error: float


def compare(before: Reading, after: Reading, *, resolution: float) -> SyncReport:
    """Measures a sync by the readings before and after it.

    ``arrived`` is the slope of the least-squares line through the origin that predicts the sampler's change from the
    trainer's.

    Args:
        before: reading of the weights that the sampler held until the sync.
        after: reading of the weights that it should hold now.
        resolution: smallest noise to assume in one of the sampler's log-probabilities, in nats.
    """
    gap = (after.sampler - after.trainer).abs()
    moved = (after.trainer - before.trainer).double()
    followed = (after.sampler - before.sampler).double()
    power = moved.square().sum()
    if power == 0:
        return SyncReport(gap.mean().item(), gap.max().item(), 0.0, 1.0, torch.inf)
    # The slope that best explains `followed` by `moved`; what it leaves unexplained is noise of the sampler.
    slope = (followed * moved).sum() / power
    noise = (followed - slope * moved).square().mean().sqrt().clamp(min=resolution)
    return SyncReport(
        gap_mean=gap.mean().item(),
        gap_max=gap.max().item(),
        change=moved.square().mean().sqrt().item(),
        arrived=slope.item(),
        arrived_error=(noise / power.sqrt()).item(),
    )


def verify(report: SyncReport, *, tolerance: float) -> None:
    """Accepts a sync or refuses it.

    A change that is too small to detect passes; ``arrived_error`` says how much the check could see.

    Args:
        report: the measured sync.
        tolerance: largest mean absolute difference that is allowed, in nats.

    Raises:
        SyncError: sampler and trainer differ by more, or the sampler did not follow the trainer's change.
    """
    if not report.gap_mean <= tolerance:
        raise SyncError(
            f"Sampler and trainer give the same tokens log-probabilities that differ by {report.gap_mean:.3g} nats on "
            f"average (at most {report.gap_max:.3g}); {tolerance:.3g} is allowed. The sampler holds other weights, or "
            "computes with another precision or implementation than the trainer: look there first, then at `tolerance`."
        )
    if report.arrived + _BENEFIT_OF_DOUBT * report.arrived_error < _LEAST_ARRIVED:
        raise SyncError(
            f"The new weights did not reach the sampler: the trainer's log-probabilities moved by {report.change:.3g} "
            f"nats, and the sampler shows {report.arrived:.0%} (+- {report.arrived_error:.0%}) of that. It would go on "
            "sampling from old weights or without the adapter."
        )
