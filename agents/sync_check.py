"""Whether a sampler holds the weights that it should: two readings of the same tokens, compared.

A sampler in other kernels and another precision never agrees exactly, so a stale adapter hides in the noise: after one
update it is off by less than rounding is. What does not hide is the change. Between two syncs the trainer's
log-probabilities of fixed tokens move in a definite direction; a sampler that got the new weights moves along it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from waltz_env.errors import SyncError

_ENOUGH = 0.5  # of the change must have arrived
_ERRORS = 3.0  # standard errors of doubt that a sync is given


@dataclass(frozen=True, slots=True)
class Reading:
    """Log-probabilities of the probe tokens, (N,) float32, nats: in the trainer and in the sampler."""

    trainer: Tensor
    sampler: Tensor


@dataclass(frozen=True, slots=True)
class SyncReport:
    """How sampler and trainer agree after a sync.

    Attributes:
        gap_mean: mean absolute difference of their log-probabilities, nats.
        gap_max: the largest.
        change: root mean square of how far the trainer's log-probabilities moved since the reading before, nats.
        arrived: share of that change seen in the sampler: 1 all of it, 0 none.
        arrived_error: standard error of ``arrived``; infinite where nothing changed.
    """

    gap_mean: float
    gap_max: float
    change: float
    arrived: float
    arrived_error: float


def compare(before: Reading, after: Reading, *, resolution: float) -> SyncReport:
    """Measures a sync by the readings around it.

    ``arrived`` is the slope of a least-squares line through the origin, the sampler's change over the trainer's.

    Args:
        before: of the weights that the sampler held until the sync.
        after: of the weights that it should hold now.
        resolution: noise of one log-probability in the sampler, at the least, in nats.
    """
    gap = (after.sampler - after.trainer).abs()
    moved = (after.trainer - before.trainer).double()
    followed = (after.sampler - before.sampler).double()
    power = moved.square().sum()
    if power == 0:
        return SyncReport(gap.mean().item(), gap.max().item(), 0.0, 1.0, torch.inf)
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

    A change that is too small to be told from noise passes: ``arrived_error`` says how much the check could see.

    Args:
        report: of the sync.
        tolerance: mean absolute difference that is allowed, nats.

    Raises:
        SyncError: sampler and trainer are further apart, or the sampler did not follow the trainer's change.
    """
    if not report.gap_mean <= tolerance:
        raise SyncError(
            f"Sampler and trainer give the same tokens log-probabilities that differ by {report.gap_mean:.3g} nats on "
            f"average (at most {report.gap_max:.3g}); {tolerance:.3g} is allowed. The sampler holds other weights, or "
            "computes with another precision or implementation than the trainer: look there first, then at `tolerance`."
        )
    if report.arrived + _ERRORS * report.arrived_error < _ENOUGH:
        raise SyncError(
            f"The new weights did not reach the sampler: the trainer's log-probabilities moved by {report.change:.3g} "
            f"nats, and {report.arrived:.0%} (+- {report.arrived_error:.0%}) of that is seen in the sampler. It would "
            "go on sampling from old weights or without the adapter."
        )
