"""Learning-rate schedules as functions of the step."""

from __future__ import annotations

from typing import Literal

Schedule = Literal["constant", "linear"]


def schedule_factor(step: int, schedule: Schedule, *, warmup_steps: int = 0, total_steps: int = 0) -> float:
    """The share of the peak learning rate that step number ``step`` (from 0) uses.

    Rises linearly over the first ``warmup_steps`` steps; ``"linear"`` also falls, to 0 at ``total_steps``.

    >>> [schedule_factor(step, "linear", total_steps=4) for step in range(5)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    warmup = min(1.0, (step + 1) / (warmup_steps + 1))
    return warmup if schedule == "constant" else warmup * max(0.0, 1.0 - step / total_steps)
