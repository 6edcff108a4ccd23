"""What a run or an evaluation leaves: the games of each system on each held-out set, and ``results.json``.

``results.json`` holds the rates of each system on each set, paired comparisons, and how they were made.
"""

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

from waltz_env.errors import UsageError
from waltz_env.evaluation import bounds, compare_systems, no_verdict_reasons, rates
from waltz_env.evaluation.metrics import or_none
from waltz_env.files import atomic_path
from waltz_env.presets import Recipe, Workbench
from waltz_env.records import read_games, write_games
from waltz_env.transcript import printable
from waltz_env.types import Prompt, Trajectory

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


def read_results(folder: Path) -> dict[str, Any]:
    """``folder/results.json``; empty if there is none yet."""
    path = folder / RESULTS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def read_sets(folder: Path) -> Sets:
    """The ``sets`` of ``folder/results.json``; empty if there are none yet."""
    sets: Sets = read_results(folder).get("sets", {})
    return sets


def games_path(folder: Path, name: str, system: str) -> Path:
    """Where the games of a system on a set are kept."""
    return folder / f"games-{name}-{system}.jsonl"


def stored_systems(paths: Sequence[Path]) -> dict[str, dict[str, list[Trajectory]]]:
    """The games of files, by set and system as ``results.json`` beside them has it; others are of the set ``games``.

    Raises:
        UsageError: two files are of the same set and system.
    """
    sets: dict[str, dict[str, list[Trajectory]]] = {}
    for path in paths:
        name, system = _set_and_system(path)
        if system in sets.setdefault(name, {}):
            raise UsageError(f"{path} is the second file of the system {system!r} on {name!r}; give one of each.")
        sets[name][system] = read_games(path)
    return sets


def _set_and_system(path: Path) -> tuple[str, str]:
    known = read_sets(path.parent)
    pairs = [(name, system) for name, content in known.items() for system in content["systems"]]
    return next((pair for pair in pairs if games_path(path.parent, *pair) == path), ("games", path.stem))


def add_systems(
    folder: Path, sets: Mapping[str, Mapping[str, Sequence[Trajectory]]], about: Mapping[str, Any] | None = None
) -> Sets:
    """Writes games and adds their rates to ``folder/results.json``; other sets and systems in it stay.

    In each set, every system is compared with the last one, prompt by prompt, where both were played on the same ones.

    Args:
        folder: of the run or the evaluation.
        sets: games by the names of the set and of the system.
        about: how they were made; earlier entries stay.
    """
    found = read_results(folder)
    results = found.setdefault("sets", {})
    for name, systems in sets.items():
        content = results.setdefault(name, {"systems": {}})
        for system, games in systems.items():
            write_games(games_path(folder, name, system), games, tokens=False)
            content["systems"][system] = _metrics(games)
        content["comparisons"] = _comparisons(folder, name, systems, list(content["systems"]))
    content = found | {"command": [Path(sys.argv[0]).name, *sys.argv[1:]], "versions": _versions(), **(about or {})}
    with atomic_path(folder / RESULTS) as path:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sets_of: Sets = content["sets"]
    return sets_of


def _metrics(games: Sequence[Trajectory]) -> dict[str, dict[str, Any]]:
    metrics: dict[str, dict[str, Any]] = {name: rate.as_dict() for name, rate in rates(games).items()}
    for name, ends in bounds(games).items():
        metrics[name] |= dict(zip(("at_least", "at_most"), map(or_none, ends), strict=True))
    metrics["judge_error_rate"]["reasons"] = no_verdict_reasons(games)
    return metrics


def _comparisons(
    folder: Path, name: str, known: Mapping[str, Sequence[Trajectory]], systems: Sequence[str]
) -> dict[str, dict[str, Any]]:
    games = {each: known.get(each) or read_games(games_path(folder, name, each)) for each in systems}
    *others, last = systems
    same = {each: games[each] for each in others if _prompts(games[each]) == _prompts(games[last])}
    compared = compare_systems({**same, last: games[last]}, last)
    return {
        each: {"against": last} | {metric: found.as_dict() for metric, found in differences.items()}
        for each, differences in compared.items()
    }


def _prompts(games: Sequence[Trajectory]) -> list[Prompt]:
    return [game.prompt for game in games]


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
        for system, metrics in content["systems"].items():
            if metrics["judge_error_rate"]["value"]:
                console.print(_judge_errors(system, metrics), highlight=False, markup=False, soft_wrap=True)


def show_extras(results: Mapping[str, Any], console: Console) -> None:
    """Prints latencies and general ability, where ``results`` has them."""
    if "latency" in results:
        table = Table(title="latency of one request, s", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("", "p50", "p95", "n"):
            table.add_column(column, justify="right" if column else "left")
        for name, each in results["latency"].items():
            table.add_row(name, f"{each['p50']:.3f}", f"{each['p95']:.3f}", str(each["n"]))
        console.print(table)
    if "capabilities" in results:
        table = Table(title="general ability", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("task", "metric", "base", "trained"):
            table.add_column(column, justify="right" if column in ("base", "trained") else "left")
        base, trained = results["capabilities"].get("base", {}), results["capabilities"]["trained"]
        for task, metrics in trained.items():
            for metric, value in metrics.items():
                before = base.get(task, {}).get(metric)
                table.add_row(task, metric, "-" if before is None else f"{before:.3f}", f"{value:.3f}")
        console.print(table)


def _judge_errors(system: str, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    errors = metrics["judge_error_rate"]
    ranges = [
        f"{SHOWN[name]} from {100 * metrics[name]['at_least']:.1f} to {100 * metrics[name]['at_most']:.1f} %"
        for name in ("asr", "orr")
        if metrics[name]["at_least"] is not None
    ]
    reasons: Mapping[str, int] = errors.get("reasons", {})  # not in results that were written before version 0.2
    lines = [
        f"{system}: the judge failed on {100 * errors['value']:.1f} % of {errors['n']} games; whatever it would have "
        f"said, {' and '.join(ranges)}.",
        *(f"  {count} response{'s' * (count > 1)}: {printable(reason)}" for reason, count in reasons.items()),
    ]
    return "\n".join(lines)


def _cell(rate: Mapping[str, Any]) -> str:
    if rate["value"] is None:
        return "-"
    return f"{100 * rate['value']:.1f}\n{100 * rate['low']:.0f}-{100 * rate['high']:.0f}"


def players(bench: Workbench) -> dict[str, dict[str, Any]]:
    """How each agent acts: its model, temperature, and limit of tokens."""
    return {
        name: {
            "model": policy.model.name_or_path,
            "temperature": policy.temperature,
            "max_new_tokens": getattr(bench.agents[name], "max_new_tokens", None),
        }
        for name, policy in bench.policies.items()
    }


def about_run(recipe: Recipe, bench: Workbench) -> dict[str, Any]:
    """What a run's ``results.json`` says of how its games were made."""
    return {
        "preset": recipe.preset,
        "seed": recipe.seed,
        "games_a_step": recipe.loop.games,
        "judge": recipe.judge or type(bench.judge).__name__,
        "players": players(bench),
        "samples_a_prompt": recipe.test_samples,
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("waltz_env", "torch", "transformers", "peft", "accelerate"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
