"""The matrix of a cross-play: which pair of agents makes how many errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from waltz_env.report.tables import title

ALONE = "none"
_CELL = (0.62, 0.42)  # width and height in inches
_MAP = "Blues"  # one hue from light to dark: the same order for color-blind readers and in print
_DARK = 0.7  # share of the color scale from which white letters have the stronger contrast


def heat_map(content: Mapping[str, Any], name: str) -> Figure:
    """Draws ASR + ORR of each conversation agent (row) with each feedback agent (column), in percent.

    White lines separate kinds of agents; frames mark agents that trained together, or have not trained at all.

    Args:
        content: the cross-play of one set, as ``waltz_env.experiments.cross_matrix.matrix`` makes it.
        name: name of the set.
    """
    rows, columns = list(content["conversation"]), [ALONE, *content["feedback"]]
    values = np.full((len(rows), len(columns)), np.nan)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            value = content["cells"][row].get(column, {}).get("asr_plus_orr", {}).get("value")
            values[i, j] = np.nan if value is None else 100 * value
    figure = Figure(figsize=(2.6 + _CELL[0] * len(columns), 1.9 + _CELL[1] * len(rows)), layout="constrained")
    axis = figure.subplots()
    top = max(float(np.nanmax(values)), 1.0) if not np.isnan(values).all() else 1.0
    edges = [np.arange(size + 1) - 0.5 for size in reversed(values.shape)]
    axis.pcolormesh(*edges, values, cmap=_MAP, vmin=0, vmax=top)  # vectors, because pages of the report show no images
    axis.invert_yaxis()
    axis.grid(visible=False)
    for (i, j), value in np.ndenumerate(values):
        ink = "white" if value > _DARK * top else "black"
        if not np.isnan(value):
            axis.text(j, i, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=10)
        if rows[i] == columns[j]:
            axis.add_patch(Rectangle((j - 0.42, i - 0.38), 0.84, 0.76, fill=False, edgecolor=ink, linewidth=1.5))
    for edge in [1, *(1 + each for each in _edges(list(content["feedback"].values())))]:
        axis.axvline(edge - 0.5, color="white", linewidth=4)
    for edge in _edges(list(content["conversation"].values())):
        axis.axhline(edge - 0.5, color="white", linewidth=4)
    plain: dict[str, Any] = {"parse_math": False}  # names of runs may hold dollar signs
    labels = ["no feedback", *map(title, columns[1:])]
    axis.set_xticks(range(len(columns)), labels, rotation=40, ha="right", rotation_mode="anchor", **plain)
    axis.set_yticks(range(len(rows)), map(title, rows), **plain)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("feedback agent of")
    axis.set_ylabel("conversation agent of")
    axis.set_title(f"ASR + ORR on {name}, %\nframed: agents of one run", fontsize=10, loc="left", **plain)
    return figure


def _edges(kinds: Sequence[str]) -> list[int]:
    """The positions at which another kind begins."""
    return [number for number, (before, after) in enumerate(pairwise(kinds), start=1) if before != after]
