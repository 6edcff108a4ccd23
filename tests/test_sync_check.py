"""The check after a weight sync, on readings worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from waltz_env.agents.sync_check import Reading, compare, verify
from waltz_env.errors import SyncError

OLD = torch.tensor([-1.0, -2.0, -3.0, -4.0])
MOVED = torch.tensor([0.3, -0.3, 0.3, -0.3])
BIAS = torch.tensor([0.01, 0.01, -0.01, -0.01])  # of the sampler's rounding; at right angles to MOVED
BEFORE = Reading(OLD, OLD + BIAS)


def test_a_sampler_that_follows_is_accepted() -> None:
    report = compare(BEFORE, Reading(OLD + MOVED, OLD + MOVED + BIAS), resolution=0.01)
    assert report.gap_mean == pytest.approx(0.01, abs=1e-6)
    assert report.change == pytest.approx(0.3, abs=1e-6)
    assert report.arrived == pytest.approx(1, abs=1e-5)
    assert report.arrived_error == pytest.approx(0.01 / (0.3 * math.sqrt(4)), rel=1e-4)
    verify(report, tolerance=0.02)


def test_a_sampler_that_did_not_move_is_refused_although_the_gap_is_allowed() -> None:
    report = compare(BEFORE, Reading(OLD + MOVED, OLD + BIAS), resolution=0.01)
    assert report.arrived == pytest.approx(0)
    with pytest.raises(SyncError, match="did not reach the sampler"):
        verify(report, tolerance=1.0)


def test_a_sampler_that_moved_elsewhere_is_refused() -> None:
    report = compare(BEFORE, Reading(OLD + MOVED, OLD - MOVED), resolution=0.01)
    with pytest.raises(SyncError, match="did not reach the sampler"):
        verify(report, tolerance=1.0)


def test_a_change_below_the_samplers_resolution_is_not_judged() -> None:
    report = compare(BEFORE, Reading(OLD + MOVED / 100, OLD + BIAS), resolution=0.01)
    assert report.arrived_error > 1
    verify(report, tolerance=0.02)


def test_no_change_leaves_only_the_gap_to_judge() -> None:
    report = compare(BEFORE, BEFORE, resolution=0.01)
    assert (report.change, report.arrived, report.arrived_error) == (0.0, 1.0, math.inf)
    verify(report, tolerance=0.02)


@pytest.mark.parametrize("wrong", [0.5, math.nan])
def test_a_sampler_of_another_model_is_refused(wrong: float) -> None:
    report = compare(BEFORE, Reading(OLD, OLD + wrong), resolution=0.01)
    with pytest.raises(SyncError, match="differ by"):
        verify(report, tolerance=0.2)
