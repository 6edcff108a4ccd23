"""What ``waltz benchmark`` leaves: ``benchmark.json`` with one row per run, ``benchmark.md``, and two pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from waltz_env.branches import ALONE
from waltz_env.errors import DataError
from waltz_env.evaluation.seeds import mean_interval, paired_interval
from waltz_env.experiments.benchmark import run_name
from waltz_env.experiments.results import Rate, SetResults, read_results
from waltz_env.experiments.systems import TRAINED
from waltz_env.files import atomic_path
from waltz_env.run_folder import RunFolder

ROWS = "benchmark.json"
SCHEMA = 1
WINDOW = 5  # steps in the moving mean of a curve
TO_THRESHOLD = "{} to R_c {:g}"
UNEQUAL = 1.5  # at most this many times as many tokens where branches are compared; whole trees do not divide evenly
RATES = ("asr", "orr", "ftr", "label_accuracy")

Row = dict[str, Any]
"""One run: algorithm, seed, preset, branches, learning curve, tokens, seconds, and rates by held-out set."""


def write_benchmark(out: Path, algorithms: Sequence[str], *, others: Sequence[Row], threshold: float) -> str | None:
    """Collect the finished runs below ``out``, join the rows of others, and write rows, table and pictures.

    Args:
        out: folder of the benchmark.
        algorithms: algorithms whose runs are collected.
        others: rows of other benchmarks, which join the table and the pictures.
        threshold: R_c that counts as solved.

    Returns:
        The table as Markdown; None if there are no rows.

    Raises:
        DataError: rows cannot be compared.
    """
    rows = [row for name in algorithms for row in rows_of(out, name)]
    with atomic_path(out / ROWS) as path:
        path.write_text(json.dumps({"schema": SCHEMA, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    rows += others
    _check_rows(rows)
    if not rows:
        return None
    text = table(rows, threshold)
    with atomic_path(out / "benchmark.md") as path:
        path.write_text(text, encoding="utf-8")
    _save(_draw_curves(rows), out / "curves.png")
    _save(_draw_planes(rows), out / "plane.png")
    return text


def read_rows(path: Path) -> list[Row]:
    """The rows of a ``benchmark.json``.

    Raises:
        DataError: the file is malformed or has another schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise DataError(f"{path} is of schema {content['schema']}; expected {SCHEMA}.")
        rows: list[Row] = content["rows"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a {ROWS} of waltz benchmark: {error!r}") from error
    for row in rows:
        missing = {"algorithm", "seed", "preset", "curve", "games_a_step", "tokens", "seconds", "sets"} - row.keys()
        if missing:
            raise DataError(f"{path}: a row lacks {', '.join(sorted(missing))}; rows are what waltz benchmark writes.")
    return rows


def games_to_threshold(row: Row, threshold: float) -> float:
    """Training games until the moving mean of R_c over five steps reaches ``threshold``; NaN if it never does."""
    smooth = _smooth(row["curve"])
    reached = np.flatnonzero(smooth >= threshold)
    width = len(row["curve"]) - len(smooth) + 1
    return float((reached[0] + width) * row["games_a_step"]) if len(reached) else math.nan


def table(rows: Sequence[Row], threshold: float) -> str:
    """Markdown: one table of training and one per held-out set, then tests of each algorithm against the first one.

    Cells are the mean over seeds and half of its 95 % interval.
    """
    unit, a_game = _cost(rows)
    to_threshold = TO_THRESHOLD.format(unit, threshold)
    groups: dict[str, dict[str, Callable[[Row], float]]] = {
        "Training": {
            "area under R_c": lambda row: float(np.mean(row["curve"])),
            to_threshold: lambda row: a_game(row) * games_to_threshold(row, threshold),
            "tokens, k": lambda row: row["tokens"] / 1000,
            "s": lambda row: row["seconds"],
        }
    }
    for name in rows[0]["sets"]:
        groups[f"`{name}`, %"] = {rate: partial(_percent, name=name, rate=rate) for rate in RATES}
    found = _by_algorithm(rows)
    default, *rest = found
    lines = []
    for title, columns in groups.items():
        lines += [f"**{title}**", "", f"| algorithm | seeds | {' | '.join(columns)} |"]
        lines.append("|---" * (2 + len(columns)) + "|")
        for algorithm, seeds in found.items():
            cells = [
                _cell([value(row) for row in seeds.values()], "never" if name == to_threshold else "-")
                for name, value in columns.items()
            ]
            lines.append(f"| {algorithm} | {len(seeds)} | {' | '.join(cells)} |")
        lines.append("")
        if not rest:
            continue
        lines += [f"Minus `{default}` on the same seeds (paired t; bold: zero is outside):", ""]
        lines += [f"| algorithm | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
        for algorithm in rest:
            cells = [
                _difference(
                    {seed: value(row) for seed, row in found[algorithm].items()},
                    {seed: value(row) for seed, row in found[default].items()},
                )
                for value in columns.values()
            ]
            lines.append(f"| {algorithm} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def rows_of(out: Path, algorithm: str) -> list[Row]:
    """One row per finished run of an algorithm.

    Raises:
        DataError: the results of a run are damaged.
    """
    rows = []
    for path in sorted(out.glob(f"seed-*/{run_name(algorithm)}")):
        folder = RunFolder(path)
        results, metrics = read_results(folder), folder.read_metrics()
        if not results:
            continue
        missing = {"seed", "preset", "games_per_step", "versions"} - results.keys()
        if missing:
            raise DataError(f"{folder.results} has no {', '.join(sorted(missing))}. Remove the run to do it again.")
        if not all(map(_trained, results["sets"].values())):  # a run that stopped after its first stage
            continue
        rows.append(
            {
                "algorithm": algorithm,
                "seed": results["seed"],
                "preset": results["preset"],
                "games_a_step": results["games_per_step"],
                "branches": folder.read_config()["loop"]["branches"],
                "curve": [line["games/r_c"] for line in metrics if "games/r_c" in line],
                "tokens": sum(_sampled(line) for line in metrics),
                "seconds": sum(
                    float(value) for line in metrics for name, value in line.items() if name.endswith("_seconds")
                ),
                "sets": {
                    name: {metric: rate["value"] for metric, rate in _trained(content).items()}
                    for name, content in results["sets"].items()
                },
                "versions": results["versions"],
            }
        )
    return rows


def _check_rows(rows: Sequence[Row]) -> None:
    seen: set[tuple[str, int]] = set()
    for row in rows:
        if row["preset"] != rows[0]["preset"]:
            raise DataError(f"Rows of the presets {rows[0]['preset']} and {row['preset']} cannot be compared.")
        if _branches(row) != _branches(rows[0]):
            ratio = row["tokens"] / rows[0]["tokens"]
            if max(ratio, 1 / ratio) > UNEQUAL:
                raise DataError(
                    f"{row['algorithm']}, seed {row['seed']}, sampled {row['tokens']:.0f} tokens, and "
                    f"{rows[0]['algorithm']}, seed {rows[0]['seed']}, {rows[0]['tokens']:.0f}; make them equal."
                )
        elif _games(row) != _games(rows[0]):
            raise DataError(
                f"{row['algorithm']}, seed {row['seed']}, has {_games(row)} training games, and "
                f"{rows[0]['algorithm']}, seed {rows[0]['seed']}, has {_games(rows[0])}; make them equal."
            )
        if (row["algorithm"], row["seed"]) in seen:
            raise DataError(f"There are two rows of {row['algorithm']}, seed {row['seed']}; rename one algorithm.")
        seen.add((row["algorithm"], row["seed"]))


def _branches(row: Row) -> tuple[int, ...]:
    return tuple(row.get("branches", ALONE))


def _cost(rows: Sequence[Row]) -> tuple[str, Callable[[Row], float]]:
    """What training is counted in, and how much of it a game costs: games, or tokens where branches differ."""
    if len(set(map(_branches, rows))) == 1:
        return "games", lambda row: 1.0
    return "tokens (k)", lambda row: row["tokens"] / 1000 / _games(row)


def _games(row: Row) -> int:
    return len(row["curve"]) * int(row["games_a_step"])


def _sampled(line: Mapping[str, Any]) -> float:
    """Number of tokens that all agents sampled in a step."""
    return sum(
        line[name] * line[name.replace("act_seconds", "act_tokens_per_second")]
        for name in line
        if name.endswith("/act_seconds")
    )


def _by_algorithm(rows: Sequence[Row]) -> dict[str, dict[int, Row]]:
    found: dict[str, dict[int, Row]] = {}
    for row in rows:
        found.setdefault(row["algorithm"], {})[row["seed"]] = row
    return found


def _percent(row: Row, name: str, rate: str) -> float:
    value = row["sets"].get(name, {}).get(rate)
    return math.nan if value is None else 100 * value


def _trained(content: SetResults) -> Mapping[str, Rate]:
    """The rates of the system that the run has trained, whatever its method; empty if it has not finished."""
    return next((content["systems"][name] for name in TRAINED.values() if name in content["systems"]), {})


def _cell(values: Sequence[float], missing: str = "-") -> str:
    known = [value for value in values if not math.isnan(value)]
    found = mean_interval(known)
    if not known:
        return missing if values else "-"
    some = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    spread = "" if math.isnan(found.high) else f" ± {_short(found.high - found.mean)}"
    return f"{_short(found.mean)}{spread}{some}"


def _difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    known = [{seed: value for seed, value in each.items() if not math.isnan(value)} for each in (ours, theirs)]
    found = paired_interval(*known)
    if not found.n or math.isnan(found.high):
        return "-"
    clear = "**" if found.low > 0 or found.high < 0 else ""
    return f"{clear}{round(found.mean, 9):+.3g} ± {_short(found.high - found.mean)}{clear}"


def _short(value: float) -> str:
    value = round(value, 9)  # differences of equal numbers are 0, and not 1e-17
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _smooth(curve: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean of every ``WINDOW`` consecutive values; of all values if there are fewer."""
    width = min(WINDOW, len(curve))
    return np.convolve(curve, np.full(width, 1 / width), mode="valid")


def _draw_curves(rows: Sequence[Row]) -> Figure:
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    unit, a_game = _cost(rows)
    for algorithm, seeds in _by_algorithm(rows).items():
        curves = [_smooth(row["curve"]) for row in seeds.values()]
        length = min(map(len, curves))
        stacked = np.stack([curve[:length] for curve in curves])
        width = min(WINDOW, min(len(row["curve"]) for row in seeds.values()))
        a_step = np.mean([row["games_a_step"] * a_game(row) for row in seeds.values()])
        (line,) = axes.plot(
            (np.arange(length) + width) * a_step, stacked.mean(0), label=f"{algorithm} ({len(seeds)} seeds)"
        )
        axes.fill_between(
            line.get_xdata(), stacked.min(0), stacked.max(0), color=line.get_color(), alpha=0.12, linewidth=0
        )
    axes.set(xlabel=f"training {unit}", ylabel="R_c of final responses", title="mean and range over seeds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def _draw_planes(rows: Sequence[Row]) -> Figure:
    sets = list(rows[0]["sets"])
    figure, panels = plt.subplots(1, len(sets), figsize=(6 * len(sets), 5), squeeze=False, layout="constrained")
    for axes, name in zip(panels[0], sets, strict=True):
        for algorithm, seeds in _by_algorithm(rows).items():
            asr, orr = ([_percent(row, name, rate) for row in seeds.values()] for rate in ("asr", "orr"))
            dots = axes.scatter(asr, orr, s=10, alpha=0.5)
            axes.scatter(np.mean(asr), np.mean(orr), s=60, color=dots.get_facecolor(), alpha=1.0, label=algorithm)
        axes.set(title=name, xlabel="ASR, %", ylabel="ORR, %")
        axes.grid(alpha=0.3)
    panels[0][-1].legend(fontsize="small")
    return figure


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")
    plt.close(figure)
