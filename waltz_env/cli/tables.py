"""Results as tables on the terminal."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from waltz_env.cli.console import console
from waltz_env.results_file import JudgeAgreement, Rate, Results, SetResults
from waltz_env.run_folder import RunFolder
from waltz_env.transcript import printable

SHOWN = {
    "asr": "ASR",
    "orr": "ORR",
    "ftr": "FTR",
    "ftr_plain": "FTR\nplain",
    "label_accuracy": "label\nacc.",
    "format_rate": "format",
}

MOST_CATEGORIES = 12  # wider tables cannot be read on a terminal; results.json and the report have all


def show(sets: Mapping[str, SetResults]) -> None:
    """Print one table per set, with one row per system: percentages with 95 % intervals."""
    for name, content in sets.items():
        title = f"{name}: held-out prompts, final responses, % with 95 % interval"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("system", no_wrap=True)
        for label in SHOWN.values():
            table.add_column(label, justify="right", no_wrap=True)
        for system, metrics in content["systems"].items():
            table.add_row(system, *(cell(metrics.get(metric)) for metric in SHOWN))
        console().print(table)
        for system, number in content.get("excluded", {}).items():
            text = f"{system}: {number} game{'s' * (number > 1)} left out, on prompts that a model cannot read."
            print(text)
        for system, metrics in content["systems"].items():
            if _value(metrics, "judge_error_rate"):
                print(_judge_errors(system, metrics))


def show_categories(sets: Mapping[str, SetResults]) -> None:
    """Print one table per set: ASR and ORR of each system by category of prompt."""
    for name, content in sets.items():
        found = content.get("categories", {})
        categories = sorted({category for each in found.values() for category in each})
        if not 1 < len(categories) <= MOST_CATEGORIES:
            continue
        title = f"{name}: by category of prompt, ASR / ORR, %"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("system", no_wrap=True)
        for category in categories:
            table.add_column(printable(category) or "(none)", justify="right", overflow="fold")
        for system, rates in found.items():
            table.add_row(system, *(_both(rates.get(category, {})) for category in categories))
        console().print(table)


def show_comparisons(sets: Mapping[str, SetResults]) -> None:
    """Print one table per set: each system minus the one that it is compared with, prompt by prompt."""
    for name, content in sets.items():
        compared = content["comparisons"]
        for against in dict.fromkeys(each.get("against") for each in compared.values()):
            title = f"{name}: minus {against} on the same prompts, percentage points with 95 % interval"
            table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
            table.add_column("system", no_wrap=True)
            for label in ("ASR", "ORR", "prompts"):
                table.add_column(label, justify="right", no_wrap=True)
            for system, differences in compared.items():
                if differences.get("against") == against:
                    asr, orr = (differences.get(metric) or {} for metric in ("asr", "orr"))
                    prompts = max(each.get("n", 0) for each in (asr, orr, differences.get("r_c") or {}))
                    table.add_row(system, _difference(asr), _difference(orr), str(prompts))
            console().print(table)
        for system, reason in content.get("not_compared", {}).items():
            print(f"{system} is not compared: {reason}.")


def show_judge_agreement(sets: Mapping[str, Mapping[str, JudgeAgreement]]) -> None:
    """Print one table per set and pair of judges: the rates under each, and Cohen's kappa with its interval."""
    for name, systems in sets.items():
        for judges in dict.fromkeys(tuple(found["judges"]) for found in systems.values()):
            first, second = map(printable, judges)
            title = f"{name}: {first} (first) and {second} (second) on the same final responses, with 95 % intervals"
            table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
            for label in ("system", "rate", "first", "second", "kappa", "differ"):
                table.add_column(label, justify="left" if label in ("system", "rate") else "right", no_wrap=True)
            for system, found in systems.items():
                for metric in ("asr", "orr") if tuple(found["judges"]) == judges else ():
                    rates = found["rates"].get(metric)
                    if rates and rates["first"]["n"]:
                        cells = (cell(rates["first"]), cell(rates["second"]), _kappa(rates["kappa"]))
                        differ = f"{rates['differ']} of {rates['first']['n']}"
                        table.add_row(system, SHOWN[metric], *cells, differ)
            if table.row_count:
                console().print(table)
        for system, found in systems.items():
            share = found["same_labels"]["value"]
            text = "no verdicts to compare" if share is None else f"{100 * share:.1f} % of responses keep their labels"
            print(f"{name}/{system}: {text}")


def close(results: Results, folder: RunFolder, *, also: Sequence[Path] = (), then: Sequence[str] = ()) -> int:
    """Print where everything is and what can be done with it next.

    Args:
        results: the results that have been shown.
        folder: where they are.
        also: folders that a report should show beside them.
        then: further commands to run next, without ``waltz``.

    Returns:
        The exit code: 1 if the judge gave no verdict on any game, so that no rate is known.
    """
    print(f"Results: {folder.results}, games: {folder.held_out_games}")
    print_next([f"report {shlex.join(map(str, [*also, folder.path]))}", *then])
    errors = [
        _value(metrics, "judge_error_rate")
        for content in results["sets"].values()
        for metrics in content["systems"].values()
    ]
    if errors and all(share == 1.0 for share in errors):
        print("Nothing was judged: every game lacks a verdict, for the reasons above.", file=sys.stderr)
        return 1
    return 0


def print_next(commands: Sequence[str]) -> None:
    """Print commands to run next, given without ``waltz``, one per line."""
    print("\n".join(["Next:", *(f"  waltz {command}" for command in commands)]))


def show_extras(results: Results) -> None:
    """Print latencies and general ability, if ``results`` has them."""
    if "latency" in results:
        title = "latency: ms per request (times: p50 as a multiple of the baseline's), %, 95 % intervals"
        narrow = (0, 1, 0, 0)  # for 80 columns
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=narrow)
        for column in ("way", "p50", "times", "p95", "tokens", "passes", "FTR", "ASR", "ORR"):
            table.add_column(column, justify="left" if column == "way" else "right", no_wrap=True)
        for name, way in results["latency"].items():
            table.add_row(
                name,
                f"{1000 * way['p50']:.0f}",
                _times(way.get("p50_times")),
                f"{1000 * way['p95']:.0f}",
                _mean(way.get("tokens")),
                _mean(way.get("passes")),
                cell(way.get("ftr")),
                cell(way.get("asr")),
                cell(way.get("orr")),
            )
        console().print(table)
    if "capabilities" in results:
        table = Table(title="general ability", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("task", "metric", "base", "trained"):
            table.add_column(column, justify="right" if column in ("base", "trained") else "left")
        base, trained = results["capabilities"].get("base", {}), results["capabilities"]["trained"]
        for task, metrics in trained.items():
            for metric, value in metrics.items():
                before = base.get(task, {}).get(metric)
                table.add_row(task, metric, "-" if before is None else f"{before:.3f}", f"{value:.3f}")
        console().print(table)


def _times(times: Rate | None) -> str:
    if times is None or times["value"] is None or times["low"] is None or times["high"] is None:
        return "-"
    return f"{times['value']:.2f}\n{times['low']:.2f}-{times['high']:.2f}"


def _mean(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _difference(difference: Mapping[str, Any]) -> str:
    value, low, high = (difference.get(name) for name in ("difference", "low", "high"))
    if value is None:
        return "-"
    interval = "one prompt: no interval" if low is None or high is None else f"{100 * low:+.0f} to {100 * high:+.0f}"
    return f"{100 * value:+.1f}\n{interval}"


def _kappa(kappa: Rate) -> str:
    value, low, high = kappa["value"], kappa["low"], kappa["high"]
    if value is None:
        return "-"
    return f"{value:.2f}" + ("" if low is None or high is None else f"\n{low:.2f} to {high:.2f}")


def _judge_errors(system: str, metrics: Mapping[str, Rate]) -> str:
    errors = metrics["judge_error_rate"]
    ranges = []
    for name in ("asr", "orr"):
        rate = metrics.get(name)
        low, high = (rate.get("at_least"), rate.get("at_most")) if rate else (None, None)
        if low is not None and high is not None:
            ranges.append(f"{SHOWN[name]} lies between {100 * low:.1f} and {100 * high:.1f} %")
    reasons = errors.get("reasons", {})
    share = 100 * (errors["value"] or 0.0)
    lines = [
        f"{system}: the judge gave no verdict on {share:.1f} % of {errors['n']} games; whatever it would have said, "
        f"{' and '.join(ranges)}.",
        *(f"  {count} response{'s' * (count > 1)}: {printable(reason)}" for reason, count in reasons.items()),
    ]
    return "\n".join(lines)


def _both(rates: Mapping[str, Rate]) -> str:
    asr, orr = (_value(rates, name) for name in ("asr", "orr"))
    return " / ".join("-" if value is None else f"{100 * value:.0f}" for value in (asr, orr))


def _value(metrics: Mapping[str, Rate], name: str) -> float | None:
    rate = metrics.get(name)
    return rate["value"] if rate else None


def cell(rate: Rate | None) -> str:
    """A rate in percent, with its interval below."""
    if rate is None:
        return "-"
    value, low, high = rate["value"], rate["low"], rate["high"]
    if value is None or low is None or high is None:
        return "-"
    return f"{100 * value:.1f}\n{100 * low:.0f}-{100 * high:.0f}"
