"""Systems of one or more runs, compared on the same prompts: the pipeline behind ``waltz evaluate``."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from waltz_env.agents import LanguageModelPolicy
from waltz_env.algorithms.training.learners import policies_of
from waltz_env.checks import check_integer, check_settings
from waltz_env.errors import UsageError
from waltz_env.experiments.capabilities import capabilities
from waltz_env.experiments.latency import latency
from waltz_env.experiments.results import Results, add_systems, players, read_results, read_sets
from waltz_env.experiments.saved_run import load_weights, newest_checkpoint, read_recipe
from waltz_env.experiments.systems import TRAINED, Systems, oracle_system, trained_systems, untrained_systems
from waltz_env.experiments.watch import Progress, Watch, quiet
from waltz_env.files import writable_folder
from waltz_env.judges import RequestClassifier, load_judge
from waltz_env.judging import check_judge
from waltz_env.presets import Recipe, workbench
from waltz_env.prompts import PromptSet
from waltz_env.protocols import Judge
from waltz_env.records import read_games
from waltz_env.rollout import check_readable
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder
from waltz_env.settings import encode
from waltz_env.strict_json import dump_json
from waltz_env.types import CONVERSATION, Prompt

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

    def __post_init__(self) -> None:
        check_settings(self)
        check_integer("samples", self.samples, at_least=1)
        check_integer("latency", self.latency, at_least=0)
        if self.capability_limit is not None:
            check_integer("capability_limit", self.capability_limit, at_least=1)


@dataclass(frozen=True, slots=True)
class Part:
    """Systems that are played, kept and resumed together, on one set of prompts.

    Attributes:
        prompt_set: name of the set.
        systems: names of the systems.
        prompts: one game each.
        play: plays them.
    """

    prompt_set: str
    systems: tuple[str, ...]
    prompts: Sequence[Prompt]
    play: Callable[[], Systems]


def evaluate(
    runs: Sequence[RunFolder],
    out: RunFolder,
    *,
    prompts: Mapping[str, PromptSet] | None = None,
    config: EvaluationConfig | None = None,
    accelerator: Accelerator | None = None,
    progress: Progress = quiet,
) -> Results:
    """Play the systems that runs stand for on the same prompts, and write each to ``out`` as soon as it is played.

    The untrained systems are those of the first run. Each run adds what it has trained. What ``out`` has already, by an
    evaluation with the same settings, is not played again.

    Args:
        runs: folders of runs with a checkpoint.
        out: folder for ``results.json`` and the games.
        prompts: sets of prompts by name; the default is the held-out sets of the first run.
        config: what to play and to measure.
        accelerator: shares the games among its processes; the default is a new one.
        progress: told what has been done, in the main process.

    Raises:
        UsageError: there is no run, two runs have the same name, or ``out`` cannot be written or holds something else.
            Nothing has been played then.
        CheckpointError: a run has no checkpoint.
        JudgeError: the judge has no verdict on a first question.
    """
    config = config or EvaluationConfig()
    accelerator = accelerator or Accelerator()
    if not runs:
        raise UsageError("An evaluation needs at least one run.")
    recipes = [read_recipe(folder) for folder in runs]
    names = system_names(runs, recipes)
    judge_name = config.judge or recipes[0].judge
    about: Results = {
        "runs": {
            name: {
                "folder": str(folder.path),
                "method": recipe.method,
                "checkpoint": newest_checkpoint(folder).name,
                **encode(recipe),
            }
            for name, folder, recipe in zip(names, runs, recipes, strict=True)
        },
        "judge": judge_name,
        "training_judge": recipes[0].judge,
        "safeguard": config.safeguard,
        "samples_per_prompt": config.samples,
    }
    check_same(out, about)
    judge = _asked(judge_name)
    bench = workbench(recipes[0], runs[0], accelerator=accelerator)
    guard: Judge = (
        RequestClassifier(bench.training_prompts) if config.safeguard == CLASSIFIER else _asked(config.safeguard)
    )
    sets = prompts or bench.tests
    if not config.exclude_unreadable:
        check_readable(chain(*sets.values()), bench.agents)
    tests = {name: list(test) * config.samples for name, test in sets.items()}
    about["players"] = players(bench)
    stored = {name: _stored(out, name, test) for name, test in tests.items()}  # games of other prompts are told here
    count = len(tests) * (2 * config.untrained + len(runs))
    watch = Watch(count, progress if accelerator.is_main_process else quiet)
    watched_judge = watch.judge(judge)

    def work(parts: Iterable[Part]) -> None:
        for part in parts:
            watch.begin(f"{part.prompt_set}: {', '.join(part.systems)}")
            if not stored[part.prompt_set].issuperset(part.systems):
                played = part.play()
                if accelerator.is_main_process:  # at once: what has been played is not lost if something fails later
                    expected = {part.prompt_set: len(part.prompts)}
                    add_systems(out, {part.prompt_set: played}, about, expected=expected)
            watch.end()

    shared: dict[str, Any] = {
        "judge": watched_judge,
        "accelerator": accelerator,
        "exclude_unreadable": config.exclude_unreadable,
    }
    if config.untrained:
        rules = _pair_rules(recipes)
        agents = watch.agents(bench.agents)
        usual = ("baseline", "baseline_safeguard", *(["untrained_pair"] if rules.max_rounds > 0 else []))
        work(
            part
            for name, test in tests.items()
            for part in (
                Part(name, usual, test, partial(untrained_systems, test, agents, rules=rules, guard=guard, **shared)),
                Part(name, ("oracle_feedback",), test, partial(oracle_system, test, agents, rules=rules, **shared)),
            )
        )
    for folder, recipe, system in zip(runs, recipes, names, strict=True):
        if folder != runs[0]:
            bench = workbench(recipe, folder, accelerator=accelerator)
        if not load_weights(folder, bench):
            about["runs"][system]["interrupted"] = True
        agents = watch.agents(bench.agents)
        trained = (system, f"{system}_safeguard") if recipe.method == "single-model" else (system,)
        play = partial(trained_systems, recipe=recipe, name=system, guard=guard, **shared)
        work(Part(name, trained, test, partial(play, test, agents)) for name, test in tests.items())
    if not accelerator.is_main_process:
        return {}
    if config.latency:
        name, test = next(iter(tests.items()))
        readable = {game.prompt for game in read_games(out.games_of_system(name, names[-1]))}
        timed = [prompt for prompt in test if prompt in readable]
        about["latency"] = latency(timed[: config.latency], bench.agents, guard=guard, rules=_pair_rules(recipes[::-1]))
        add_systems(out, {}, about)
    if config.capabilities:
        policy = policies_of(bench.agents).get(CONVERSATION)
        if not isinstance(policy, LanguageModelPolicy):
            raise UsageError("Capabilities are measured on a conversation agent whose weights are in this process.")
        about["capabilities"] = capabilities(policy, config.capabilities, limit=config.capability_limit)
    return add_systems(out, {}, about)


def check_same(out: RunFolder, about: Results) -> None:
    """Check that ``out`` can be written, and that what it holds belongs to the same experiment.

    Raises:
        UsageError: it cannot, or holds a run or results that were made in another way.
        DataError: the results there are damaged.
    """
    writable_folder(out.path)
    if out.has_config():
        raise UsageError(f"{out.path} is the folder of a run. Choose another --out.")
    earlier: Mapping[str, Any] = read_results(out)
    for name, value in about.items():
        if not earlier or name == "games":
            continue
        before = earlier.get(name)
        pairs = [(before, value)]
        if name == "runs" and isinstance(before, Mapping) and isinstance(value, Mapping):
            pairs = [
                (_without_outcome(before[each]), _without_outcome(value[each])) for each in value if each in before
            ]
        if any(one != other for one, other in pairs):
            shown = f": {before} there, {value} now" if isinstance(value, str | int) else ""
            raise UsageError(
                f"{out.path} holds results that were made with another setting of {name}{shown}. Choose another --out."
            )


def _without_outcome(run: Mapping[str, Any]) -> dict[str, Any]:
    """How a system was made, as it is known before it is played."""
    return {name: value for name, value in json.loads(dump_json(run)).items() if name != "interrupted"}


def _stored(out: RunFolder, name: str, prompts: Sequence[Prompt]) -> set[str]:
    """The systems that have been played on all of the prompts.

    Raises:
        UsageError: a system was played on other prompts.
    """
    content = read_sets(out).get(name)
    if content is None:
        return set()
    done = set()
    for system in content["systems"]:
        path = out.games_of_system(name, system)
        if path.exists():
            played = Counter(game.prompt for game in read_games(path))
            if played.total() + content.get("excluded", {}).get(system, 0) != len(prompts) or played - Counter(prompts):
                raise UsageError(f"{path} holds games on other prompts than {name} has now. Choose another --out.")
            done.add(system)
    return done


def _asked(name: str) -> Judge:
    judge = load_judge(name)
    check_judge(judge, name)
    return judge


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


def set_name(spec: str) -> str:
    """The name of a set of prompts, fit for a file: ``builtin-test``, or ``mine`` for ``data/mine.jsonl``."""
    return re.sub(r"\W+", "-", Path(spec).stem)
