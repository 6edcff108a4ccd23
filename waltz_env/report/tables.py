"""The data of the report's tables and figures: one row of rates per system and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from waltz_env.types import Trajectory

RATES = {
    "asr": ("ASR", "attack success rate: share of final responses to harmful prompts that are unsafe"),
    "orr": ("ORR", "over-refusal rate: share of final responses to benign prompts that overrefuse"),
    "asr_first": ("ASR draft", "attack success rate of the drafts"),
    "orr_first": ("ORR draft", "over-refusal rate of the drafts"),
    "non_answer": ("no answer", "share of final responses that say nothing, by the judge"),
    "label_accuracy": (
        "label acc.",
        "share of first critiques whose two flags equal the judge's labels; malformed ones count as wrong",
    ),
    "format_rate": ("format", "share of critiques that are well-formed JSON"),
    "improved": ("improved", "share of revisions that turned a bad response into a satisfactory one"),
    "worsened": ("worsened", "share of revisions that turned a satisfactory response into a bad one"),
    "truncated": ("truncated", "share of turns that ended at a length limit"),
    "judge_error_rate": (
        "judge errors",
        "share of games in which a response has no verdict; no other rate counts them",
    ),
}
TRIGGERS = {
    "ftr": ("all", "all prompts"),
    "ftr_harmful": ("harmful", "harmful prompts"),
    "ftr_benign": ("benign", "benign prompts"),
    "ftr_plain": ("plain", "plain prompts: everyday requests, which are part of the benign ones"),
}
JUDGED_RATES = {"asr": "ASR", "orr": "ORR", "r_c": "satisfactory"}
TITLES = {
    "baseline_safeguard": "baseline + safeguard",
    "adaptive_whole": "adaptive, whole critiques",
    "adaptive_flags": "adaptive, ends at the flags",
    "adaptive_phrases": "adaptive, phrases at once",
    "always_on": "always on",
    "single_model_rl": "single-model RL",
    "single_model_rl_safeguard": "single-model RL + safeguard",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A run or an evaluation, as its folder holds it.

    Attributes:
        name: unique name of the source in the report.
        folder: folder of the run or the evaluation.
        results: content of ``results.json``.
        metrics: lines of ``metrics.jsonl``; empty for evaluations.
        recipe: content of ``config.json``; empty for evaluations.
        games: games by set and system.
        earlier: the same games with the labels of the judge before, where they were judged again.
    """

    name: str
    folder: Path
    results: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    recipe: Mapping[str, Any]
    games: Mapping[tuple[str, str], Sequence[Trajectory]]
    earlier: Mapping[tuple[str, str], Sequence[Trajectory]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """The metrics of one system on one set in one run, as ``results.json`` has them."""

    system: str
    run: str
    metrics: Mapping[str, Mapping[str, Any]]

    def value(self, metric: str) -> float | None:
        """Returns the rate; None if it was not measured, or has nothing to count."""
        return self.metrics.get(metric, {}).get("value")


def set_names(sources: Sequence[Source]) -> list[str]:
    """Returns every set of any source, in order of appearance."""
    return list(dict.fromkeys(name for source in sources for name in source.results["sets"]))


def system_names(sources: Sequence[Source]) -> list[str]:
    """Returns every system of any source on any set, in order of appearance."""
    return list(
        dict.fromkeys(
            system for source in sources for content in source.results["sets"].values() for system in content["systems"]
        )
    )


def title(system: str) -> str:
    """Returns the name of a system in words.

    >>> title("single_model_rl_safeguard")
    'single-model RL + safeguard'
    """
    return TITLES.get(system, system.replace("_", " "))


def rows(sources: Sequence[Source], name: str) -> list[Row]:
    """Returns the rows of one set: systems in order of appearance, and under each system its runs."""
    table = [
        Row(system, source.name, metrics)
        for source in sources
        if name in source.results["sets"]
        for system, metrics in source.results["sets"][name]["systems"].items()
    ]
    order = system_names(sources)
    return sorted(table, key=lambda row: order.index(row.system))


def measured(table: Sequence[Row], metrics: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Returns the ``metrics`` of which at least one row has a value."""
    return {name: words for name, words in metrics.items() if any(row.value(name) is not None for row in table)}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points that no other point beats in both coordinates (smaller is better), sorted by the first.

    >>> pareto_front([(0.3, 0.1), (0.1, 0.4), (0.2, 0.5), (0.3, 0.2)])
    [(0.1, 0.4), (0.3, 0.1)]
    """
    front: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front
