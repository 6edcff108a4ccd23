"""``results.json`` of a run or an evaluation: rates of each system on each held-out set, and how they were made."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from waltz_env.evaluation.metrics import rates
from waltz_env.files import atomic_path
from waltz_env.types import Trajectory

RESULTS = "results.json"
SHOWN = {
    "asr": "ASR",
    "orr": "ORR",
    "ftr": "FTR",
    "ftr_plain": "FTR\nplain",
    "label_accuracy": "label\nacc.",
    "format_rate": "format",
}

Sets = dict[str, dict[str, dict[str, dict[str, Any]]]]


def read_sets(folder: Path) -> Sets:
    """The ``sets`` of ``folder/results.json``; empty if there is none yet."""
    path = folder / RESULTS
    return json.loads(path.read_text(encoding="utf-8"))["sets"] if path.exists() else {}


def add_system(folder: Path, system: str, games: Mapping[str, Sequence[Trajectory]], about: Mapping[str, Any]) -> Sets:
    """Adds a system's rates, set by set, to ``folder/results.json``; other systems in it stay."""
    sets = read_sets(folder)
    for name, played in games.items():
        systems = sets.setdefault(name, {"systems": {}})["systems"]
        systems[system] = {metric: rate.as_dict() for metric, rate in rates(played).items()}
    content = {"sets": sets, "command": ["waltz", *sys.argv[1:]], "versions": _versions(), **about}
    with atomic_path(folder / RESULTS) as path:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return sets


def show(sets: Sets, console: Console) -> None:
    """Prints one table a set: a row a system, percentages with 95 % Wilson intervals."""
    for name, content in sets.items():
        title = f"{name}: held-out prompts, final responses, % with 95 % interval"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("system", no_wrap=True)
        for label in SHOWN.values():
            table.add_column(label, justify="right", no_wrap=True)
        for system, metrics in content["systems"].items():
            table.add_row(system, *(_cell(metrics[metric]) for metric in SHOWN))
        console.print(table)


def _cell(rate: Mapping[str, Any]) -> str:
    if rate["value"] is None:
        return "-"
    return f"{100 * rate['value']:.1f}\n{100 * rate['low']:.0f}-{100 * rate['high']:.0f}"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("waltz_env", "torch", "transformers", "peft", "accelerate"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
