"""Learning curves of a run, drawn from its ``metrics.jsonl``."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from waltz_env.algorithms.run_log import read_metrics

PANELS = {
    "Responses: ASR and ORR (training prompts)": {
        "games/asr_first": "ASR, draft",
        "games/asr": "ASR, final",
        "games/orr_first": "ORR, draft",
        "games/orr": "ORR, final",
    },
    "Feedback agent": {
        "games/label_accuracy": "label accuracy",
        "games/format_rate": "well-formed JSON",
        "games/improved": "revisions that improve",
        "games/worsened": "revisions that worsen",
    },
    "Feedback trigger rate": {
        "games/ftr_harmful": "harmful prompts",
        "games/ftr_benign": "benign prompts",
        "games/ftr_plain": "plain prompts",
    },
    "Mean reward": {
        "reward/conversation": "R_c",
        "reward/feedback": "R_f",
        "reward/improvement": "R_DIR",
    },
}
WIDTH = 5  # steps in the moving mean


def draw_curves(folder: Path) -> Path | None:
    """Draws ``folder/curves.png``; None if there is no step to draw."""
    lines = [line for line in read_metrics(folder) if any(str(name).startswith("games/") for name in line)]
    if not lines:
        return None
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), sharex=True, layout="constrained")
    for axis, (title, curves) in zip(axes.flat, PANELS.items(), strict=True):
        for color, (name, label) in enumerate(curves.items()):
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                steps, values = zip(*points, strict=True)
                axis.plot(steps, values, color=f"C{color}", alpha=0.25, linewidth=0.8)
                axis.plot(steps, _moving_mean(values), color=f"C{color}", label=label)
        for before, after in pairwise(lines):
            if before["stage"] != after["stage"]:
                axis.axvline(after["step"], color="grey", linestyle=":", linewidth=1)
        axis.set_title(title, fontsize=10)
        axis.set_ylim(-0.05, 1.05)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel(f"step (dotted: next stage; bold: mean of {WIDTH} steps)")
    path = folder / "curves.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _moving_mean(values: tuple[float, ...]) -> list[float]:
    windows = (values[max(0, end - WIDTH) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]
