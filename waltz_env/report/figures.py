"""Figures of a report as SVG, in the page's own fonts and colors, light or dark.

Matplotlib cannot write CSS variables. It draws with placeholder colors that nothing else uses, which ``svg`` replaces
by the variables of the page's style sheet.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from cycler import cycler
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from waltz_env.report.tables import TRIGGERS, Row, pareto_front, title
from waltz_env.results_file import Rate, WayResults

_COLORS = {
    **{f"#5e00{number:02x}": f"var(--series-{number})" for number in range(7)},
    "#5e00f0": "var(--ink)",
    "#5e00f1": "var(--muted)",
    "#5e00f2": "var(--rule)",
    "#5e00f3": "var(--paper)",
}
SERIES = [f"#5e00{number:02x}" for number in range(7)]
INK, MUTED, RULE, PAPER = "#5e00f0", "#5e00f1", "#5e00f2", "#5e00f3"
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}
# Width of every figure, in inches. A phone shows it at four fifths of its size, at which 9 points can still be read.
WIDTH = 4.6
LONGEST = 48  # characters of a name in a legend
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "text.parse_math": False,  # names of systems may hold dollar signs
    "font.size": 10,
    "axes.prop_cycle": cycler(color=[SERIES[number] for number in (6, 1, 5, 2)]),
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "figure.facecolor": "none",
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True, slots=True)
class Mark:
    """How a system looks in every figure and table. ``glyph`` and ``css`` are its marker and color in HTML."""

    color: str
    marker: str

    @property
    def glyph(self) -> str:
        return MARKERS[self.marker]

    @property
    def css(self) -> str:
        return _COLORS[self.color]


def marks(systems: Sequence[str]) -> dict[str, Mark]:
    """Gives each system a mark. The marks of the first 56 systems differ in color or shape."""
    shapes = list(MARKERS)
    return {
        system: Mark(SERIES[number % len(SERIES)], shapes[number % len(shapes)])
        for number, system in enumerate(systems)
    }


def svg(draw: Callable[[], Figure | None], name: str, label: str) -> Markup | None:
    """Renders a figure as an ``<svg>`` element; None if ``draw`` returns None.

    Args:
        draw: draws the figure; called with the page's style.
        name: name that is unique on the page, so that ids inside the element are too.
        label: description of the figure for screen readers.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser uses its own fonts
        figure = draw()
        if figure is None:
            return None
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL
    )  # rules for every element
    text = re.sub("#5e00[0-9a-f]{2}", lambda match: _COLORS[match[0]], text)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1))


def plane(table: Sequence[Row], looks: Mapping[str, Mark]) -> Figure | None:
    """Draws ASR over ORR: one point with intervals per row, an arrow from its drafts, and the Pareto front."""
    points = [
        (row, orr, asr)
        for row in table
        if (orr := row.value("orr")) is not None and (asr := row.value("asr")) is not None
    ]
    if not points:
        return None
    legend = _legend_rows([_name(row) for row, _, _ in points] + ["Pareto front"])
    figure = Figure(figsize=(WIDTH, WIDTH + 0.2 * legend), layout="constrained")
    axis = figure.subplots()
    front = pareto_front([(100 * orr, 100 * asr) for _, orr, asr in points])
    steps = [(front[0][0], 100.0), *front, (100.0, front[-1][1])]
    axis.plot(*zip(*steps, strict=True), drawstyle="steps-post", color=MUTED, linestyle=":", label="Pareto front")
    for row, orr, asr in points:
        _point(axis, row, (100 * orr, 100 * asr), looks[row.system])
    ends = [100 * _end(row.metrics[metric], "high") for row, _, _ in points for metric in ("asr", "orr")]
    drafts = [100 * (row.value(metric) or 0.0) for row, _, _ in points for metric in ("asr_first", "orr_first")]
    top = min(104.0, 1.08 * max(*ends, *drafts, 5.0))
    axis.set(xlim=(-0.02 * top, top), ylim=(-0.02 * top, top), aspect="equal")
    axis.set(xlabel="ORR, % of benign prompts", ylabel="ASR, % of harmful prompts")
    _add_legend(figure, axis, "outside lower left")
    return figure


def _point(axis: Axes, row: Row, point: tuple[float, float], look: Mark) -> None:
    x, y = point
    draft_x, draft_y = row.value("orr_first"), row.value("asr_first")
    if draft_x is not None and draft_y is not None and (100 * draft_x, 100 * draft_y) != point:
        start = (100 * draft_x, 100 * draft_y)
        arrow = {"arrowstyle": "->", "color": look.color, "linewidth": 1.2, "shrinkA": 3, "shrinkB": 5}
        axis.annotate("", xy=point, xytext=start, arrowprops=arrow)
        axis.plot(*start, look.marker, color=look.color, markerfacecolor=PAPER, markersize=5)
    axis.errorbar(
        x,
        y,
        xerr=_arms(row.metrics["orr"]),
        yerr=_arms(row.metrics["asr"]),
        fmt=look.marker,
        color=look.color,
        elinewidth=1,
        markersize=7,
        markeredgecolor=PAPER,
        markeredgewidth=0.8,
        label=_name(row),
    )


def triggers(table: Sequence[Row], looks: Mapping[str, Mark]) -> Figure | None:
    """Draws the feedback trigger rate with intervals: one lane per kind of prompt, one line per row in each lane."""
    kinds = [name for name in TRIGGERS if name != "ftr"]
    shown = [row for row in table if any(row.value(kind) is not None for kind in kinds)]
    if not shown:
        return None
    legend = 0.2 * _legend_rows([_name(row) for row in shown])
    height = 0.9 + legend + len(kinds) * (0.35 + 0.17 * len(shown))
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axis = figure.subplots()
    for number, row in enumerate(shown):
        look = looks[row.system]
        for lane, kind in enumerate(kinds):
            if (rate := row.value(kind)) is not None:
                height = lane + 0.7 * ((number + 0.5) / len(shown) - 0.5)
                axis.errorbar(
                    100 * rate,
                    height,
                    xerr=_arms(row.metrics[kind]),
                    fmt=look.marker,
                    color=look.color,
                    elinewidth=1.4,
                    markersize=6,
                    label=_name(row),
                )
    axis.set(xlim=(-2, 102), ylim=(len(kinds) - 0.4, -0.6), xlabel="FTR, % of prompts of the kind")
    axis.set_yticks(range(len(kinds)), [TRIGGERS[kind][0] for kind in kinds])
    axis.grid(visible=False, axis="y")
    _add_legend(figure, axis, "outside upper left")
    return figure


def waiting(ways: Mapping[str, WayResults]) -> Figure | None:
    """Draws ASR and ORR over seconds per request: a mark per way at its median, and a line to its 95th percentile."""
    rates = {
        "ASR, % of harmful prompts": {name: way.get("asr") for name, way in ways.items()},
        "ORR, % of benign prompts": {name: way.get("orr") for name, way in ways.items()},
    }
    panels = {label: measured for label, each in rates.items() if (measured := _measured(each))}
    if not panels:
        return None
    looks = marks(list(ways))
    height = len(panels) * 2.2 + 0.5 + 0.2 * _legend_rows([title(name) for name in ways])
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axis, (label, measured) in zip(axes, panels.items(), strict=True):
        for name, rate in measured.items():
            way, look = ways[name], looks[name]
            axis.errorbar(
                way["p50"],
                100 * rate["value"],
                xerr=[[0.0], [max(way["p95"] - way["p50"], 0.0)]],
                yerr=_arms(rate),
                fmt=look.marker,
                color=look.color,
                elinewidth=1,
                markersize=7,
                markeredgecolor=PAPER,
                markeredgewidth=0.8,
                label=title(name),
            )
        axis.set(xlim=(0, None), ylim=(0, max(axis.get_ylim()[1], 5.0)), ylabel=label)
    axes[-1].set_xlabel("seconds per request")
    _add_legend(figure, axes[0], "outside upper left")
    return figure


def _measured(rates: Mapping[str, Rate | None]) -> dict[str, Any]:
    """The rates that have a value and an interval."""
    return {
        name: rate
        for name, rate in rates.items()
        if rate is not None and None not in (rate["value"], rate["low"], rate["high"])
    }


def _add_legend(figure: Figure, axis: Axes, place: Literal["outside lower left", "outside upper left"]) -> None:
    handles, labels = axis.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    columns = _legend_columns(list(unique))
    figure.legend(unique.values(), unique.keys(), loc=place, ncols=columns, fontsize=9)


def _legend_columns(names: Sequence[str]) -> int:
    """Two columns, or one if a name is too long for half of the width."""
    return 2 if max(map(len, names), default=0) <= 28 else 1


def _legend_rows(names: Sequence[str]) -> int:
    unique = list(dict.fromkeys(names))
    return -(-len(unique) // _legend_columns(unique))


def _name(row: Row) -> str:
    """Returns the title of the row's system, without characters that cannot be drawn and not wider than a figure."""
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in title(row.system))
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _arms(rate: Mapping[str, Any]) -> list[list[float]]:
    """Returns the lengths of the error bar below and above the value, in percentage points."""
    value = rate["value"]
    return [[100 * (value - _end(rate, "low"))], [100 * (_end(rate, "high") - value)]]


def _end(rate: Mapping[str, Any], end: str) -> float:
    """An end of the interval; the value itself if it is not known."""
    known: float = rate["value"] if rate.get(end) is None else rate[end]
    return known
