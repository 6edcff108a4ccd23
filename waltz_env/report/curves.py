"""Learning curves of a run, from its ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Label, color and dashes per metric. The same rate has the same color for drafts and for final responses.
PANELS = {
    "Responses: ASR and ORR (training prompts)": {
        "games/asr_first": ("ASR, draft", "C0", ":"),
        "games/asr": ("ASR, final", "C0", "-"),
        "games/orr_first": ("ORR, draft", "C1", ":"),
        "games/orr": ("ORR, final", "C1", "-"),
    },
    "Feedback agent": {
        "games/label_accuracy": ("label accuracy", "C0", "-"),
        "games/format_rate": ("well-formed JSON", "C1", "--"),
        "games/improved": ("revisions that improve", "C2", "-."),
        "games/worsened": ("revisions that worsen", "C3", ":"),
    },
    "Feedback trigger rate": {
        "games/ftr_harmful": ("harmful prompts", "C0", "-"),
        "games/ftr_benign": ("benign prompts", "C1", "--"),
        "games/ftr_plain": ("plain prompts", "C2", "-."),
    },
    "Mean reward": {
        "reward/conversation": ("R_c", "C0", "-"),
        "reward/feedback": ("R_f", "C1", "--"),
        "reward/improvement": ("R_DIR", "C2", "-."),
    },
}
WIDTH = 5  # number of steps in a moving mean


def curves(metrics: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draws four panels over the steps of all stages; None if no line has metrics of games."""
    lines = _lines(metrics)
    if not lines:
        return None
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for axis, title in zip(axes.flat, PANELS, strict=True):
        _draw(axis, title, lines)
    for axis in axes[-1]:
        axis.set_xlabel(f"step (dotted: next stage; bold: mean of {WIDTH} steps)")
    return figure


def panel(metrics: Sequence[Mapping[str, Any]], title: str) -> Figure | None:
    """Draws one of the four panels by itself, small enough for a phone; None if no line has metrics of games."""
    lines = _lines(metrics)
    if not lines:
        return None
    figure = Figure(figsize=(4.6, 3.3), layout="constrained")
    axis = figure.subplots()
    _draw(axis, title, lines)
    axis.set_xlabel("step")
    return figure


def _lines(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [line for line in metrics if any(name.startswith("games/") for name in line)]


def _draw(axis: Axes, title: str, lines: Sequence[Mapping[str, Any]]) -> None:
    for name, (label, color, dashes) in PANELS[title].items():
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        if points:
            steps, values = zip(*points, strict=True)
            axis.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            axis.plot(steps, _moving_mean(values), color=color, linestyle=dashes, label=label)
    for before, after in pairwise(lines):
        if before["stage"] != after["stage"]:
            axis.axvline(after["step"], color=matplotlib.rcParams["xtick.color"], linestyle=":", linewidth=1)
    axis.set_title(title, fontsize=10)
    axis.set_ylim(-0.05, 1.05)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=9)


def _moving_mean(values: tuple[float, ...]) -> list[float]:
    windows = (values[max(0, end - WIDTH) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]
