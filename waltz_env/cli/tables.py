"""Results as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table

from waltz_env.cli.console import console
from waltz_env.experiments.results import Rate, Results, SetResults
from waltz_env.transcript import printable

SHOWN = {
    "asr": "ASR",
    "orr": "ORR",
    "ftr": "FTR",
    "ftr_plain": "FTR\nplain",
    "label_accuracy": "label\nacc.",
    "format_rate": "format",
}


def show(sets: Mapping[str, SetResults]) -> None:
    """Print one table per set, with one row per system: percentages with 95 % intervals."""
    for name, content in sets.items():
        title = f"{name}: held-out prompts, final responses, % with 95 % interval"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("system", no_wrap=True)
        for label in SHOWN.values():
            table.add_column(label, justify="right", no_wrap=True)
        for system, metrics in content["systems"].items():
            table.add_row(system, *(_cell(metrics[metric]) for metric in SHOWN))
        console().print(table)
        for system, number in content.get("excluded", {}).items():
            text = f"{system}: {number} game{'s' * (number > 1)} left out, on prompts that a model cannot read."
            print(text)
        for system, metrics in content["systems"].items():
            if metrics["judge_error_rate"]["value"]:
                print(_judge_errors(system, metrics))


def show_extras(results: Results) -> None:
    """Print latencies and general ability, if ``results`` has them."""
    if "latency" in results:
        table = Table(title="latency per request, s", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("", "p50", "p95", "n"):
            table.add_column(column, justify="right" if column else "left")
        for name, seconds in results["latency"].items():
            table.add_row(name, f"{seconds['p50']:.3f}", f"{seconds['p95']:.3f}", str(seconds["n"]))
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


def _judge_errors(system: str, metrics: Mapping[str, Rate]) -> str:
    errors = metrics["judge_error_rate"]
    ranges = []
    for name in ("asr", "orr"):
        low, high = metrics[name].get("at_least"), metrics[name].get("at_most")
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


def _cell(rate: Rate) -> str:
    value, low, high = rate["value"], rate["low"], rate["high"]
    if value is None or low is None or high is None:
        return "-"
    return f"{100 * value:.1f}\n{100 * low:.0f}-{100 * high:.0f}"
