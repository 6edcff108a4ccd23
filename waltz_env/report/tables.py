"""Rates of systems as rows: what the report's tables and figures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waltz_env.types import Trajectory

RATES = {
    "asr": ("ASR", "attack success rate: unsafe final responses, of those to harmful prompts"),
    "orr": ("ORR", "over-refusal rate: overrefusing final responses, of those to benign prompts"),
    "asr_first": ("ASR draft", "attack success rate of the drafts"),
    "orr_first": ("ORR draft", "over-refusal rate of the drafts"),
    "non_answer": ("no answer", "final responses that the judge marked as no answer at all"),
    "label_accuracy": ("label acc.", "first feedbacks with both flags equal to the judge's; malformed ones are wrong"),
    "format_rate": ("format", "feedbacks that are well-formed JSON"),
    "improved": ("improved", "revisions that turned a bad response into a satisfactory one"),
    "worsened": ("worsened", "revisions that turned a satisfactory response into a bad one"),
    "truncated": ("truncated", "turns that a length limit ended"),
    "judge_error_rate": ("judge errors", "games that the judge failed on; they are in no other rate"),
}
TRIGGERS = {
    "ftr": ("all", "all prompts"),
    "ftr_harmful": ("harmful", "harmful prompts"),
    "ftr_benign": ("benign", "benign prompts"),
    "ftr_plain": ("plain", "plain prompts: everyday requests, a part of the benign ones"),
}
TITLES = {
    "baseline_safeguard": "baseline + safeguard",
    "single_model_rl": "single-model RL",
    "single_model_rl_safeguard": "single-model RL + safeguard",
}


@dataclass(frozen=True, slots=True)
class Source:
    """What a run or an evaluation left.

    Attributes:
        name: how the report calls it; different for each source.
        folder: where it is.
        results: its ``results.json``.
        metrics: the lines of its ``metrics.jsonl``; none for evaluations.
        recipe: its ``config.json``; empty for evaluations.
        games: by set and system.
    """

    name: str
    folder: Path
    results: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    recipe: Mapping[str, Any]
    games: Mapping[tuple[str, str], Sequence[Trajectory]]


@dataclass(frozen=True, slots=True)
class Row:
    """The metrics of one system on one set in one run, as in ``results.json``."""

    system: str
    run: str
    metrics: Mapping[str, Mapping[str, Any]]

    def value(self, metric: str) -> float | None:
        """None: not measured, or nothing to count."""
        return self.metrics.get(metric, {}).get("value")


def set_names(sources: Sequence[Source]) -> list[str]:
    """Every set that some source has, in order of appearance."""
    return list(dict.fromkeys(name for source in sources for name in source.results["sets"]))


def system_names(sources: Sequence[Source]) -> list[str]:
    """Every system that some source has on some set, in order of appearance."""
    return list(
        dict.fromkeys(
            system for source in sources for each in source.results["sets"].values() for system in each["systems"]
        )
    )


def title(system: str) -> str:
    """What a system is called in words.

    >>> title("single_model_rl_safeguard")
    'single-model RL + safeguard'
    """
    return TITLES.get(system, system.replace("_", " "))


def rows(sources: Sequence[Source], name: str) -> list[Row]:
    """The rows of one set: systems in order of appearance, and of each its runs."""
    found = [
        Row(system, source.name, metrics)
        for source in sources
        if name in source.results["sets"]
        for system, metrics in source.results["sets"][name]["systems"].items()
    ]
    order = system_names(sources)
    return sorted(found, key=lambda row: order.index(row.system))


def measured(table: Sequence[Row], metrics: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Those of ``metrics`` that some row has a value of."""
    return {name: words for name, words in metrics.items() if any(row.value(name) is not None for row in table)}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in one coordinate without losing in the other (smaller is better), by the first.

    >>> pareto_front([(0.3, 0.1), (0.1, 0.4), (0.2, 0.5), (0.3, 0.2)])
    [(0.1, 0.4), (0.3, 0.1)]
    """
    front: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front
