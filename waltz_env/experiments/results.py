"""What a run or an evaluation found: games of each system on each held-out set, and ``results.json``."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

from waltz_env.errors import DataError, UsageError
from waltz_env.evaluation import bounds, compare, no_verdict_reasons, paired, rates
from waltz_env.evaluation.metrics import or_none
from waltz_env.records import read_games, write_games
from waltz_env.run_folder import RunFolder
from waltz_env.types import Trajectory

if TYPE_CHECKING:
    from waltz_env.presets import Recipe, Workbench


class Rate(TypedDict):
    """A proportion with its 95 % interval; None where there was no case to count.

    Attributes:
        value, low, high: proportion and ends of its interval.
        n: number of cases.
        at_least, at_most: ends of the rate over whatever a judge could have said where it gave no verdict.
        reasons: why the judge gave no verdict, with the number of responses; for ``judge_error_rate``.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    at_least: NotRequired[float | None]
    at_most: NotRequired[float | None]
    reasons: NotRequired[dict[str, int]]


class SetResults(TypedDict):
    """Results on one held-out set.

    Attributes:
        systems: rates by system and metric.
        comparisons: differences by system and metric, prompt by prompt, against the system named by ``against``.
        excluded: number of games by system that were left out because a model cannot read them; absent if none were.
    """

    systems: dict[str, dict[str, Rate]]
    comparisons: dict[str, dict[str, Any]]
    excluded: NotRequired[dict[str, int]]


class Results(TypedDict, total=False):
    """The content of ``results.json``.

    Attributes:
        sets: results by held-out set.
        preset, seed, games_per_step, samples_per_prompt: settings of the run, or of the evaluation.
        judge, training_judge, safeguard: judges by name.
        players: model, temperature and token limit of each agent.
        runs: folder and settings of each evaluated run, by its system.
        latency: seconds per request for each way to deploy the pair.
        capabilities: scores of the conversation agent before and after training, by task.
        games, agreement: files that were judged again, and the share of responses that kept their labels.
        command, versions: how to get these results again.
    """

    sets: dict[str, SetResults]
    preset: str
    seed: int
    games_per_step: int
    samples_per_prompt: int
    judge: str
    training_judge: str
    safeguard: str
    players: dict[str, dict[str, Any]]
    runs: dict[str, dict[str, Any]]
    latency: dict[str, dict[str, float]]
    capabilities: dict[str, dict[str, dict[str, float]]]
    games: list[str]
    agreement: dict[str, float | None]
    command: list[str]
    versions: dict[str, str]


def read_results(folder: RunFolder) -> Results:
    """The results in ``folder``; empty if there are none yet.

    Raises:
        DataError: the file is damaged, or another version wrote it.
    """
    results = folder.read_results()
    sets = results.get("sets", {})
    if not isinstance(sets, dict) or not all(isinstance(each, dict) and "systems" in each for each in sets.values()):
        raise DataError(f"{folder.results} must hold 'sets', each with 'systems'; it does not. Evaluate again.")
    return cast(Results, results)


def read_sets(folder: RunFolder) -> dict[str, SetResults]:
    """The results of each held-out set in ``folder``; empty if there are none yet."""
    return read_results(folder).get("sets", {})


def stored_systems(paths: Sequence[Path]) -> dict[str, dict[str, list[Trajectory]]]:
    """The games in ``paths`` by set and system.

    A file in a run folder has the set and system that the results beside it give it; any other file is a system, named
    after the file, of the set ``games``.

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
    folder = RunFolder(path.parent.parent.parent)
    if path.parent == folder.held_out_games and folder.results.exists():
        for name, content in read_sets(folder).items():
            for system in content["systems"]:
                if folder.games_of_system(name, system) == path:
                    return name, system
    return "games", path.stem


def add_systems(
    folder: RunFolder,
    sets: Mapping[str, Mapping[str, Sequence[Trajectory]]],
    about: Results | None = None,
    *,
    expected: Mapping[str, int] | None = None,
) -> Results:
    """Write games and add their rates to the results in ``folder``; other sets and systems there stay.

    Every system of a set is compared with the last one, prompt by prompt, on the prompts that both were played on.

    Args:
        folder: folder of the run or the evaluation.
        sets: games by the names of the set and of the system.
        about: how they were made. Earlier entries of other names stay.
        expected: number of games that each set has if none is left out.
    """
    earlier = read_results(folder)
    results = dict(earlier.get("sets", {}))
    for name, systems in sets.items():
        content = results.setdefault(name, {"systems": {}, "comparisons": {}})
        for system, games in systems.items():
            write_games(folder.games_of_system(name, system), games, tokens=False)
            content["systems"][system] = _metrics(games)
            excluded = {**content.get("excluded", {}), system: (expected or {}).get(name, len(games)) - len(games)}
            content["excluded"] = {each: number for each, number in excluded.items() if number}
            if not content["excluded"]:
                del content["excluded"]
        content["comparisons"] = _comparisons(folder, name, systems, list(content["systems"]))
    merged: Results = {
        **earlier,
        "sets": results,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": _versions(),
        **(about or {}),
    }
    folder.write_results(cast(dict[str, Any], merged))
    return merged


def _metrics(games: Sequence[Trajectory]) -> dict[str, Rate]:
    metrics = {name: cast(Rate, rate.as_dict()) for name, rate in rates(games).items()}
    for name, (low, high) in bounds(games).items():
        metrics[name]["at_least"], metrics[name]["at_most"] = or_none(low), or_none(high)
    metrics["judge_error_rate"]["reasons"] = no_verdict_reasons(games)
    return metrics


def _comparisons(
    folder: RunFolder, name: str, known: Mapping[str, Sequence[Trajectory]], systems: Sequence[str]
) -> dict[str, dict[str, Any]]:
    games = {system: known.get(system) or read_games(folder.games_of_system(name, system)) for system in systems}
    *others, last = systems
    pairs = {system: paired(games[system], games[last]) for system in others}
    return {
        system: {"against": last} | {metric: difference.as_dict() for metric, difference in compare(*pair).items()}
        for system, pair in pairs.items()
        if pair[0]
    }


def players(bench: Workbench) -> dict[str, dict[str, Any]]:
    """How each agent with a policy acts: its model, its temperature and its token limit."""
    return {
        name: {
            "model": policy.model.name_or_path,
            "temperature": policy.temperature,
            "max_new_tokens": getattr(agent, "max_new_tokens", None),
        }
        for name, agent in bench.agents.items()
        if (policy := getattr(agent, "policy", None)) is not None
    }


def about_run(recipe: Recipe, bench: Workbench) -> Results:
    """What the results of a run say about how its games were made."""
    return {
        "preset": recipe.preset,
        "seed": recipe.seed,
        "games_per_step": recipe.loop.games,
        "judge": recipe.judge,
        "players": players(bench),
        "samples_per_prompt": recipe.test_samples,
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("waltz_env", "torch", "transformers", "peft", "accelerate"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
