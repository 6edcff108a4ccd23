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


class WayResults(TypedDict):
    """What one way to deploy a pair costs a user, and what its answers are worth.

    Attributes:
        p50, p95: seconds per request, median and 95th percentile.
        n: number of requests.
        p50_times, p95_times: the same as multiples of those of the first way, with 95 % intervals.
        tokens: tokens that were sampled per request, of all turns.
        passes: forward passes per request of models in this process; None if nobody can count them.
        ftr, asr, orr: rates of these requests and their answers.
    """

    p50: float
    p95: float
    n: int
    p50_times: NotRequired[Rate]
    p95_times: NotRequired[Rate]
    tokens: NotRequired[float | None]
    passes: NotRequired[float | None]
    ftr: NotRequired[Rate]
    asr: NotRequired[Rate]
    orr: NotRequired[Rate]


class SetResults(TypedDict):
    """Results on one held-out set.

    Attributes:
        systems: rates by system and metric.
        comparisons: differences by system and metric, prompt by prompt, against the system named by ``against``.
        excluded: number of games by system that were left out because a model cannot read them; absent if none were.
        categories: ``asr``, ``orr`` and ``ftr`` by system and category of prompt; absent if there is one category.
        not_compared: why a system is not compared, by system; absent if all are.
    """

    systems: dict[str, dict[str, Rate]]
    comparisons: dict[str, dict[str, Any]]
    excluded: NotRequired[dict[str, int]]
    categories: NotRequired[dict[str, dict[str, dict[str, Rate]]]]
    not_compared: NotRequired[dict[str, str]]


class JudgeAgreement(TypedDict):
    """How far two judges agree on the games of one system, see ``waltz_env.evaluation.compare_judges``.

    Attributes:
        judges: names of the earlier judge and of the new one.
        same_labels: share of responses to which both give the same labels.
        rates: for ``asr``, ``orr`` and ``r_c``: the rate under the ``first`` judge and the ``second``, ``kappa``, and
            the number of final responses on which they ``differ``.
    """

    judges: list[str]
    same_labels: Rate
    rates: dict[str, dict[str, Any]]


class Results(TypedDict, total=False):
    """The content of ``results.json``.

    Attributes:
        sets: results by held-out set.
        preset, seed, games_per_step, samples_per_prompt: settings of the run, or of the evaluation.
        judge, training_judge, safeguard: judges by name.
        base: name on the hub and license of the model that training began with; empty where they are not known.
        training_prompts: number of training prompts by their source.
        players: model, temperature, token limit and chats (``waltz_env.agents.templates.chats``) of each agent.
        servers: the model, temperature and token limit of each agent on a chat server, with its address.
        runs: folder and settings of each evaluated run, by its system.
        latency: seconds, tokens and rates for each way to deploy the pair.
        capabilities: scores of the conversation agent before and after training, by task.
        games: files of games that were judged again.
        judge_agreement: how far the earlier judge of these games and the new one agree, by set and system.
        cross_play: how the agents of several runs play with each other, by set; see
            ``waltz_env.experiments.cross_matrix``.
        distilled: run and checkpoint that a run was distilled from, and the number of drafts and revisions it learned.
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
    base: dict[str, str]
    training_prompts: dict[str, int]
    players: dict[str, dict[str, Any]]
    servers: dict[str, dict[str, Any]]
    runs: dict[str, dict[str, Any]]
    latency: dict[str, WayResults]
    capabilities: dict[str, dict[str, dict[str, float]]]
    games: list[str]
    judge_agreement: dict[str, dict[str, JudgeAgreement]]
    cross_play: dict[str, dict[str, Any]]
    distilled: dict[str, Any]
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
            name: {
                key: _rate(value, key) if isinstance(value, Mapping) else _number(value, name)
                for key, value in _object(way, name).items()
            }
            for name, way in _object(results.get("latency"), "latency").items()
        }
        ability = {
            model: {
                task: {metric: _number(value, task) for metric, value in _object(scores, task).items()}
                for task, scores in _object(tasks, model).items()
            }
            for model, tasks in _object(results.get("capabilities"), "capabilities").items()
        }
        runs = {name: _object(about, name) for name, about in _object(results.get("runs"), "runs").items()}
        agreement = {
            name: {system: _agreement(_object(found, system)) for system, found in _object(systems, name).items()}
            for name, systems in _object(results.get("judge_agreement"), "judge_agreement").items()
        }
    except KeyError as error:
        raise DataError(f"{folder.results} must hold {error}; it does not. Evaluate again.") from error
    except DataError as error:
        raise DataError(f"{folder.results}: {error} Evaluate again.") from error
    read = {**results, "sets": sets}
    read |= {
        name: value
        for name, value in {
            "latency": {name: way for name, way in latency.items() if {"p50", "p95", "n"} <= way.keys()},
            "capabilities": {"base": {}, "trained": {}} | ability,
            "runs": runs,
            "judge_agreement": agreement,
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
    read = {**content, "systems": systems, "comparisons": comparisons}
    if "categories" in content:
        read["categories"] = {
            system: {
                category: {metric: _rate(rate, metric) for metric, rate in _object(metrics, category).items()}
                for category, metrics in _object(categories, system).items()
            }
            for system, categories in _object(content["categories"], "categories").items()
        }
    return read


def _agreement(content: Mapping[str, Any]) -> dict[str, Any]:
    judges = content["judges"]
    if not isinstance(judges, list) or len(judges) != 2 or not all(isinstance(name, str) for name in judges):
        raise DataError(f"'judges' must be the names of two judges, not {judges!r}.")
    rates = _object(content["rates"], "rates").items()
    return {
        "judges": judges,
        "same_labels": _rate(content["same_labels"], "same_labels"),
        "rates": {metric: _agreement_on(_object(found, metric), metric) for metric, found in rates},
    }


def _agreement_on(found: Mapping[str, Any], metric: str) -> dict[str, Any]:
    rates = {name: _rate(found.get(name), metric) for name in ("first", "second", "kappa")}
    return {**found, **rates, "differ": int(_number(found.get("differ"), metric) or 0)}


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
