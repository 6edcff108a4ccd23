"""Learning curves of a run as an image."""

from __future__ import annotations

from pathlib import Path

from waltz_env.algorithms.training.run_log import read_metrics
from waltz_env.report.curves import curves


def draw_curves(folder: Path) -> Path | None:
    """Draws ``folder/curves.png`` from its ``metrics.jsonl``; None if there is no step to draw."""
    figure = curves(read_metrics(folder))
    if figure is None:
        return None
    path = folder / "curves.png"
    figure.savefig(path, dpi=110)
    return path
