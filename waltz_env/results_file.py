"""``results.json``: its content, and the one reader for all who show or extend it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict, cast

from waltz_env.errors import DataError
from waltz_env.run_folder import RunFolder


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
        not_compared: why a system is not compared, by system; absent if all are.
    """

    systems: dict[str, dict[str, Rate]]
    comparisons: dict[str, dict[str, Any]]
    excluded: NotRequired[dict[str, int]]
    not_compared: NotRequired[dict[str, str]]


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

    What is not there, such as a rate or the ability of the base, is empty or None: a gap that tables show as a dash.

    Raises:
        DataError: the file is damaged, or another version wrote it.
    """
    if not folder.results.exists():
        return {}
    results = folder.read_results()
    try:
        sets = {name: _set(_object(content, name)) for name, content in _object(results["sets"], "sets").items()}
        latency = {
            name: {key: _number(value, name) for key, value in _object(seconds, name).items()}
            for name, seconds in _object(results.get("latency"), "latency").items()
        }
        ability = {
            model: {
                task: {metric: _number(value, task) for metric, value in _object(scores, task).items()}
                for task, scores in _object(tasks, model).items()
            }
            for model, tasks in _object(results.get("capabilities"), "capabilities").items()
        }
        runs = {name: _object(about, name) for name, about in _object(results.get("runs"), "runs").items()}
    except KeyError as error:
        raise DataError(f"{folder.results} must hold {error}; it does not. Evaluate again.") from error
    except DataError as error:
        raise DataError(f"{folder.results}: {error} Evaluate again.") from error
    read = {**results, "sets": sets}
    read |= {
        name: value
        for name, value in {
            "latency": {name: seconds for name, seconds in latency.items() if {"p50", "p95", "n"} <= seconds.keys()},
            "capabilities": {"base": {}, "trained": {}} | ability,
            "runs": runs,
        }.items()
        if name in results
    }
    return cast(Results, read)


def _set(content: Mapping[str, Any]) -> dict[str, Any]:
    systems = {
        system: {metric: _rate(rate, metric) for metric, rate in _object(metrics, system).items()}
        for system, metrics in _object(content["systems"], "systems").items()
    }
    comparisons = {
        system: {
            metric: _rate(value, metric, "difference") if isinstance(value, Mapping) else value
            for metric, value in _object(differences, system).items()
        }
        for system, differences in _object(content.get("comparisons"), "comparisons").items()
    }
    return {**content, "systems": systems, "comparisons": comparisons}


def _rate(rate: object, name: str, value: str = "value") -> dict[str, Any]:
    """A rate or a difference with all of its numbers; None in place of those that are missing."""
    known = _object(rate, name)
    numbers = {key: _number(known.get(key), name) for key in (value, "low", "high")}
    if value == "difference":
        numbers["p_value"] = _number(known.get("p_value"), name)
    return {**known, **numbers, "n": int(_number(known.get("n"), name) or 0)}


def _object(value: object, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f"{name!r} must be an object, not {type(value).__name__}.")
    return value


def _number(value: object, name: str) -> Any:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise DataError(f"{name!r} must have numbers, not {type(value).__name__}.")
    return value
