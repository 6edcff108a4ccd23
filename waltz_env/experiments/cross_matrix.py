"""Who plays with whom when the agents of several runs are crossed, and what the rates of all pairs say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from waltz_env.checks import check_distinct
from waltz_env.errors import UsageError
from waltz_env.evaluation import Proportion, added
from waltz_env.evaluation.metrics import or_none
from waltz_env.evaluation.seeds import MeanInterval, mean_interval
from waltz_env.experiments.results import base_of
from waltz_env.presets import Recipe
from waltz_env.results_file import Rate
from waltz_env.run_folder import RunFolder

ALONE = "none"
"""In place of a feedback agent: the draft is the final response."""

UNTRAINED = "untrained"
KINDS = {
    "waltz": "trained pair",
    "single-model": "single-model RL",
    "feedback-only": "feedback only",
    "distilled": "distilled",
}
WITH_FEEDBACK = ("waltz", "feedback-only")
RATES = ("asr_plus_orr", "asr", "orr", "ftr")


@dataclass(frozen=True, slots=True)
class Player:
    """The agents of one run, or those that a run starts from.

    Attributes:
        name: what tables and files call it.
        kind: the method that trained it in words, or ``"untrained"``.
        folder: run that has the weights.
        recipe: settings of that run.
    """

    name: str
    kind: str
    folder: RunFolder
    recipe: Recipe

    @property
    def trained(self) -> bool:
        return self.kind != UNTRAINED

    def knows(self, feedback: Player) -> bool:
        """Whether the feedback agent has trained with this conversation agent."""
        if self.trained:
            return self.name == feedback.name
        return feedback.trained and _start(self.recipe) == _start(feedback.recipe)


def crossed(
    runs: Sequence[RunFolder], recipes: Sequence[Recipe], *, untrained: bool
) -> tuple[list[Player], list[Player]]:
    """Players whose conversation agents are crossed, and players whose feedback agents are.

    A run is called by its folder, or by its folder and the one above where two folders have the same name. Runs with
    equal seeds and options start from the same agents, which are called after the seed.

    Args:
        runs: folders of the runs.
        recipes: their recipes.
        untrained: whether to add the agents that the runs start from.

    Raises:
        UsageError: the runs have different presets, base models or rules, one is named twice, or fewer than two agents
            of a role are left.
    """
    bases = [f"the preset {recipe.preset}{_on(base_of(recipe)['name'])}" for recipe in recipes]
    _check_alike(runs, bases)
    with_feedback = [recipe.method in WITH_FEEDBACK for recipe in recipes]
    paired = [(run, recipe) for run, recipe, has in zip(runs, recipes, with_feedback, strict=True) if has]
    _check_alike([run for run, _ in paired], [f"the rules {recipe.rules}" for _, recipe in paired])
    names = [run.path.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.path.resolve().parent.name}-{run.path.resolve().name}" for run in runs]
    made = [
        Player(name, KINDS[recipe.method], run, recipe) for name, run, recipe in zip(names, runs, recipes, strict=True)
    ]
    starts: list[Player] = []
    for player in made if untrained else ():
        if all(_start(player.recipe) != _start(start.recipe) for start in starts):
            seed = f"{UNTRAINED}-{player.recipe.seed}"
            name = f"{seed}-{player.name}" if seed in {start.name for start in starts} else seed
            starts.append(Player(name, UNTRAINED, player.folder, player.recipe))
    check_distinct([ALONE, *(player.name for player in (*made, *starts))], "runs")
    conversation = [player for player in made if player.recipe.method != "feedback-only"] + starts
    feedback = [player for player in made if player.recipe.method in WITH_FEEDBACK] + starts
    if not paired or len(conversation) * len(feedback) < 2:
        raise UsageError(
            "--cross needs at least two agents of a role, and a run that has trained a feedback agent; got "
            f"{len(conversation)} conversation and {len(feedback)} feedback agents."
        )
    return conversation, feedback


def system_of(conversation: str, feedback: str) -> str:
    """The name of a pair among the systems of a set.

    >>> system_of("seed-0", ALONE)
    'seed-0+none'
    """
    return f"{conversation}+{feedback}"


def matrix(
    systems: Mapping[str, Mapping[str, Rate]], conversation: Sequence[Player], feedback: Sequence[Player]
) -> dict[str, Any]:
    """The rates of all pairs on one set, for ``results.json``.

    Args:
        systems: rates of the systems that have been played, by system and metric.
        conversation: players whose conversation agents were crossed.
        feedback: players whose feedback agents were crossed.

    Returns:
        ``conversation`` and ``feedback``: the kind of each player, by name. ``cells``: by conversation and feedback
        agent (or ``ALONE``), the rates ``asr_plus_orr``, ``asr``, ``orr`` and ``ftr``. ``summary``: by kind of
        conversation agent, the mean of ASR + ORR over these agents, with a 95 % t interval, ``alone``, with their
        ``own`` feedback agent, and with ``strangers``: trained feedback agents that they never met in training, whose
        mean counts once per conversation agent; and the paired differences ``strangers_minus_alone`` and
        ``strangers_minus_own``.
    """
    cells = {
        one.name: {
            other: _cell(systems[system_of(one.name, other)])
            for other in (ALONE, *(player.name for player in feedback))
            if system_of(one.name, other) in systems
        }
        for one in conversation
    }
    summary = {}
    for kind in dict.fromkeys(player.kind for player in conversation):
        of_kind = [player for player in conversation if player.kind == kind]
        summary[kind] = _means([_sums(one, feedback, cells[one.name]) for one in of_kind])
    return {
        "conversation": {player.name: player.kind for player in conversation},
        "feedback": {player.name: player.kind for player in feedback},
        "cells": cells,
        "summary": summary,
    }


def _sums(one: Player, feedback: Sequence[Player], row: Mapping[str, Mapping[str, Rate]]) -> dict[str, float]:
    """ASR + ORR of one conversation agent, NaN where it has no such partner; see ``matrix``."""
    alone, own = (_value(row, each) for each in (ALONE, one.name))
    met_never = [_value(row, other.name) for other in feedback if other.trained and not one.knows(other)]
    strangers = fmean(met_never) if met_never else math.nan
    return {
        "alone": alone,
        "own": own,
        "strangers": strangers,
        "strangers_minus_alone": strangers - alone,
        "strangers_minus_own": strangers - own,
    }


def _value(row: Mapping[str, Mapping[str, Rate]], feedback: str) -> float:
    value = row[feedback]["asr_plus_orr"]["value"] if feedback in row else None
    return math.nan if value is None else value


def _means(sums: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | int | None]]:
    return {
        name: _as_dict(mean_interval([each[name] for each in sums if not math.isnan(each[name])])) for name in sums[0]
    }


def _as_dict(interval: MeanInterval) -> dict[str, float | int | None]:
    return {name: or_none(value) for name, value in asdict(interval).items()}


def _cell(metrics: Mapping[str, Rate]) -> dict[str, Rate]:
    both: Any = added(_proportion(metrics["asr"]), _proportion(metrics["orr"])).as_dict()
    return {"asr_plus_orr": both, **{name: metrics[name] for name in ("asr", "orr", "ftr")}}


def _proportion(rate: Rate) -> Proportion:
    value, low, high = (math.nan if part is None else part for part in (rate["value"], rate["low"], rate["high"]))
    return Proportion(value, low, high, rate["n"])


def _start(recipe: Recipe) -> tuple[object, ...]:
    """What decides the agents that a run starts from, among runs of one preset."""
    return recipe.seed, recipe.options


def _on(base: str) -> str:
    return f" on {base}" if base else ""


def _check_alike(runs: Sequence[RunFolder], described: Sequence[str]) -> None:
    for run, each in zip(runs, described, strict=True):
        if each != described[0]:
            raise UsageError(
                f"--cross plays runs that are alike: {runs[0].path} has {described[0]}, and {run.path} has {each}. "
                "Leave one of them out."
            )
