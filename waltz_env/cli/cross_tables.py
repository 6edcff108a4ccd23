"""A cross-play as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from waltz_env.cli.console import console
from waltz_env.cli.tables import cell

COLUMNS = {"asr_plus_orr": "ASR + ORR", "asr": "ASR", "orr": "ORR", "ftr": "FTR"}
MEANS = {
    "alone": "none",
    "own": "own",
    "strangers": "trained,\nnever met",
    "strangers_minus_alone": "never met\nminus none",
    "strangers_minus_own": "never met\nminus own",
}


def show_cross_play(sets: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the rates of all pairs, the matrix of ASR + ORR, and its means, for each set."""
    for name, content in sets.items():
        _show_pairs(name, content)
        _show_matrix(name, content)
        _show_means(name, content)


def _show_pairs(name: str, content: Mapping[str, Any]) -> None:
    table = _table(f"{name}: all pairs of agents, final responses, % with 95 % interval")
    for label in ("conversation", "feedback"):
        table.add_column(label, no_wrap=True)
    for label in COLUMNS.values():
        table.add_column(label, justify="right", no_wrap=True)
    for conversation, row in content["cells"].items():
        for number, (feedback, rates) in enumerate(row.items()):
            cells = [cell(rates[metric]) for metric in COLUMNS]
            table.add_row("" if number else conversation, feedback, *cells, end_section=number == len(row) - 1)
    console().print(table)


def _show_matrix(name: str, content: Mapping[str, Any]) -> None:
    """Print the matrix with numbers for column names, which are too long to stand side by side."""
    numbers = {each: str(i) for i, each in enumerate({**content["conversation"], **content["feedback"]}, start=1)}
    table = _table(f"{name}: ASR + ORR, whole %, of each row's conversation agent with each feedback agent")
    table.padding = (0, 1, 0, 0)  # ten runs fit into 80 columns
    table.add_column("", no_wrap=True)
    feedback = {"none": "none"} | {each: numbers[each] for each in content["feedback"]}
    for label in feedback.values():
        table.add_column(label, justify="right", no_wrap=True)
    for each, number in numbers.items():
        row = content["cells"].get(each, {})
        sums = [_whole_percent(row[other]["asr_plus_orr"]["value"]) if other in row else "-" for other in feedback]
        table.add_row(f"{number:>2} {each}", *sums)
    console().print(table)


def _show_means(name: str, content: Mapping[str, Any]) -> None:
    table = _table(f"{name}: ASR + ORR, %, mean over conversation agents, by feedback agent, with 95 % t interval")
    table.add_column("conversation agents", no_wrap=True)
    for label in MEANS.values():
        table.add_column(label, justify="right", no_wrap=True)
    for kind, means in content["summary"].items():
        count = sum(each == kind for each in content["conversation"].values())
        table.add_row(f"{kind} ({count})", *(_mean(means[each], signed="minus" in each) for each in MEANS))
    console().print(table)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _whole_percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}"


def _mean(interval: Mapping[str, float | None], *, signed: bool) -> str:
    mean, low, high = interval["mean"], interval["low"], interval["high"]
    if mean is None:
        return "-"
    text = f"{100 * mean:+.1f}" if signed else f"{100 * mean:.1f}"
    return text if low is None or high is None else f"{text}\n± {50 * (high - low):.1f}"
