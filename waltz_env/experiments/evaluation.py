"""Systems of one or more runs, compared on the same prompts: the pipeline behind ``waltz evaluate``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from accelerate import Accelerator

from waltz_env.agents import LanguageModelPolicy
from waltz_env.algorithms.training.learners import policies_of
from waltz_env.errors import UsageError
from waltz_env.experiments.capabilities import capabilities
from waltz_env.experiments.latency import latency
from waltz_env.experiments.results import Results, add_systems, players
from waltz_env.experiments.saved_run import load_weights, newest_checkpoint, read_recipe
from waltz_env.experiments.systems import TRAINED, Systems, trained_systems, untrained_systems
from waltz_env.judges import RequestClassifier, load_judge
from waltz_env.presets import Recipe, workbench
from waltz_env.prompts import PromptSet
from waltz_env.protocols import Judge
from waltz_env.records import read_games
from waltz_env.rollout import check_readable
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder
from waltz_env.settings import encode
from waltz_env.types import CONVERSATION

CLASSIFIER = "classifier"


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """What an evaluation plays and measures.

    Attributes:
        samples: games on each prompt.
        judge: judge of the responses, by name; the default is that of the first run's training.
        safeguard: a judge by name, or ``"classifier"``: a linear classifier of requests, fitted on the first run's
            training prompts.
        untrained: whether to play the untrained systems.
        latency: number of prompts of the first set on which the last run is timed; 0 for none.
        capabilities: tasks of lm-evaluation-harness for the conversation agent of the last run and for its base.
        capability_limit: largest number of questions per task; all by default.
        exclude_unreadable: leave out, and count, games on prompts that a model cannot read because they are longer than
            its context or its chat template refuses them. They are an error by default.
    """

    samples: int = 1
    judge: str | None = None
    safeguard: str = CLASSIFIER
    untrained: bool = True
    latency: int = 0
    capabilities: tuple[str, ...] = ()
    capability_limit: int | None = None
    exclude_unreadable: bool = False


def evaluate(
    runs: Sequence[RunFolder],
    out: RunFolder,
    *,
    prompts: Mapping[str, PromptSet] | None = None,
    config: EvaluationConfig | None = None,
    accelerator: Accelerator | None = None,
) -> Results:
    """Play the systems that runs stand for on the same prompts. Each set is written to ``out`` as soon as it is played.

    The untrained systems are those of the first run. Each run adds what it has trained.

    Args:
        runs: folders of runs with a checkpoint.
        out: folder for ``results.json`` and the games.
        prompts: sets of prompts by name; the default is the held-out sets of the first run.
        config: what to play and to measure.
        accelerator: shares the games among its processes; the default is a new one.

    Raises:
        UsageError: there is no run, or two runs have the same name.
        CheckpointError: a run has no checkpoint.
    """
    config = config or EvaluationConfig()
    accelerator = accelerator or Accelerator()
    if not runs:
        raise UsageError("An evaluation needs at least one run.")
    recipes = [read_recipe(folder) for folder in runs]
    names = system_names(runs, recipes)
    for folder in runs:
        newest_checkpoint(folder)  # fails before anything is built

    judge_name = config.judge or recipes[0].judge
    judge = load_judge(judge_name)
    bench = workbench(recipes[0], runs[0], accelerator=accelerator)
    guard = _guard(config.safeguard, bench.training_prompts)
    sets = prompts or bench.tests
    if not config.exclude_unreadable:
        check_readable(chain(*sets.values()), bench.agents)
    tests = {name: list(test) * config.samples for name, test in sets.items()}
    about: Results = {
        "runs": {
            name: {"folder": str(folder.path), **encode(recipe)}
            for name, folder, recipe in zip(names, runs, recipes, strict=True)
        },
        "judge": judge_name,
        "training_judge": recipes[0].judge,
        "safeguard": config.safeguard,
        "samples_per_prompt": config.samples,
        "players": players(bench),
    }
    results: Results = {}

    def keep(name: str, played: Systems) -> None:
        if accelerator.is_main_process:  # at once: what has been played is not lost if something fails later
            results.update(add_systems(out, {name: played}, about, expected={name: len(tests[name])}))

    if config.untrained:
        rules = _pair_rules(recipes)
        for name, test in tests.items():
            played = untrained_systems(
                test,
                bench.agents,
                judge=judge,
                rules=rules,
                guard=guard,
                oracle=True,
                accelerator=accelerator,
                exclude_unreadable=config.exclude_unreadable,
            )
            keep(name, played)
    for folder, recipe, system in zip(runs, recipes, names, strict=True):
        if folder != runs[0]:
            bench = workbench(recipe, folder, accelerator=accelerator)
        if not load_weights(folder, bench):
            about["runs"][system]["interrupted"] = True
        for name, test in tests.items():
            played = trained_systems(
                test,
                bench.agents,
                judge=judge,
                recipe=recipe,
                name=system,
                guard=guard,
                accelerator=accelerator,
                exclude_unreadable=config.exclude_unreadable,
            )
            keep(name, played)
    if not accelerator.is_main_process:
        return results
    if config.latency:
        name, test = next(iter(tests.items()))
        readable = {game.prompt for game in read_games(out.games_of_system(name, names[-1]))}
        timed = [prompt for prompt in test if prompt in readable]
        about["latency"] = latency(timed[: config.latency], bench.agents, guard=guard, rules=_pair_rules(recipes[::-1]))
    if config.capabilities:
        policy = policies_of(bench.agents).get(CONVERSATION)
        if not isinstance(policy, LanguageModelPolicy):
            raise UsageError("Capabilities are measured on a conversation agent whose weights are in this process.")
        about["capabilities"] = capabilities(policy, config.capabilities, limit=config.capability_limit)
    return add_systems(out, {}, about)


def system_names(runs: Sequence[RunFolder], recipes: Sequence[Recipe]) -> list[str]:
    """What each run's system is called: by its method, or by its folder where two runs have the same method.

    Raises:
        UsageError: two runs would have the same name.
    """
    methods = [recipe.method for recipe in recipes]
    names = [
        TRAINED[method] if methods.count(method) == 1 else folder.path.resolve().name
        for folder, method in zip(runs, methods, strict=True)
    ]
    check_distinct(names, "runs")
    return names


def check_distinct(names: Sequence[str], what: str) -> None:
    """Check that names, which become names of files, are different.

    Raises:
        UsageError: two are equal.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"Two {what} would both be called {', '.join(twice)}; rename a folder or a file.")


def _pair_rules(recipes: Sequence[Recipe]) -> Rules:
    """The rules of the first run that is played with feedback; the default rules if there is none."""
    return next((recipe.rules for recipe in recipes if recipe.rules.max_rounds > 0), Rules())


def _guard(name: str, training_prompts: PromptSet) -> Judge:
    return RequestClassifier(training_prompts) if name == CLASSIFIER else load_judge(name)


def set_name(spec: str) -> str:
    """The name of a set of prompts, fit for a file: ``builtin-test``, or ``mine`` for ``data/mine.jsonl``."""
    return re.sub(r"\W+", "-", Path(spec).stem)
