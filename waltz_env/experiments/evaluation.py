"""Systems of one or more runs, compared on the same prompts: the pipeline behind ``waltz evaluate``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, product
from typing import Any

from accelerate import Accelerator

from waltz_env.agents import LanguageModelPolicy
from waltz_env.agents.engines import TRANSFORMERS, check_engine, close_engines, server_urls
from waltz_env.algorithms.training.learners import policies_of
from waltz_env.checks import check_distinct, check_integer, check_settings
from waltz_env.errors import UsageError
from waltz_env.experiments.capabilities import capabilities
from waltz_env.experiments.latency import latency
from waltz_env.experiments.main_process import by_main_process
from waltz_env.experiments.results import Results, add_systems, players, read_results, read_sets
from waltz_env.experiments.saved_run import base_folder, load_weights, newest_checkpoint, read_recipe, with_engine
from waltz_env.experiments.servers import Servers
from waltz_env.experiments.systems import (
    SERVED,
    TRAINED,
    Systems,
    oracle_system,
    served_systems,
    trained_systems,
    untrained_systems,
)
from waltz_env.experiments.watch import Progress, Watch, quiet
from waltz_env.files import alone, writable_folder
from waltz_env.judges import RequestClassifier, load_judge, without_noise
from waltz_env.judging import check_judge
from waltz_env.presets import Recipe, workbench
from waltz_env.prompts import PromptSet
from waltz_env.protocols import Agent, Judge
from waltz_env.records import read_games
from waltz_env.rollout import check_readable, play
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder
from waltz_env.settings import encode
from waltz_env.strict_json import dump_json
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Prompt

CLASSIFIER = "classifier"
ANSWER_TIMEOUT = 300.0  # seconds that one answer of a chat server may take
DAY = 86_400.0  # seconds that a batch may: slow servers are waited for


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """What an evaluation plays and measures.

    Attributes:
        samples: games on each prompt.
        judge: judge of the responses, by name; the default is that of the first run's training, without noise.
        safeguard: a judge by name, or ``"classifier"``: a linear classifier of requests, fitted on the first run's
            training prompts; without a run there is none.
        engine: engine of the runs: transformers, vllm (in this process), or running vLLM servers, vllm@URL,URL; of runs
            that a Tinker service trained, tinker or tinker@URL.
        untrained: whether to play the untrained systems.
        latency: number of prompts, spread over the first set, on which the last run is timed; 0 for none.
        capabilities: tasks of lm-evaluation-harness for the conversation agent of the last run and for its base.
        capability_limit: largest number of questions per task; all by default.
        exclude_unreadable: leave out, and count, games on prompts that a model cannot read because they are longer than
            its context or its chat template refuses them. They are an error by default.
    """

    samples: int = 1
    judge: str | None = None
    safeguard: str = CLASSIFIER
    engine: str = TRANSFORMERS
    untrained: bool = True
    latency: int = 0
    capabilities: tuple[str, ...] = ()
    capability_limit: int | None = None
    exclude_unreadable: bool = False

    def __post_init__(self) -> None:
        check_settings(self)
        check_integer("samples", self.samples, at_least=1)
        server_urls(self.engine)
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
    servers: Servers | None = None,
    accelerator: Accelerator | None = None,
    progress: Progress = quiet,
) -> Results:
    """Play the systems that runs and servers stand for, and write each to ``out`` as soon as it is played.

    The untrained systems are those of the first run. Each run adds what it has trained, and chat servers add what they
    answer. What ``out`` has already, by an evaluation with the same settings, is not played again.

    Args:
        runs: folders of runs with a checkpoint; none if there are servers.
        out: folder for ``results.json`` and the games.
        prompts: sets of prompts by name; the default is the held-out sets of the first run.
        config: what to play and to measure.
        servers: chat servers that play: the conversation agent, or both agents; none by default.
        accelerator: shares the games among its processes; the default is a new one.
        progress: told what has been done, in the main process.

    Raises:
        UsageError: nothing plays, something is missing that the first run would tell, two runs have the same name, or
            ``out`` cannot be written or holds something else. Nothing has been played then.
        AgentError: a server does not answer, at the start or after all retries.
        CheckpointError: a run has no checkpoint.
        JudgeError: the judge has no verdict on a first question.
    """
    config, servers = config or EvaluationConfig(), servers or Servers()
    accelerator = accelerator or Accelerator()
    judge_name = config.judge or (without_noise(read_recipe(runs[0]).judge) if runs else "")
    _check_players(runs, servers, complete=bool(prompts and judge_name), config=config)
    with ExitStack() as until_done:
        served = servers.agents(timeout=ANSWER_TIMEOUT, deadline=DAY)
        for agent in served.values():
            until_done.callback(agent.close)
        return _evaluate(
            runs,
            out,
            prompts=prompts or {},
            config=config,
            judge_name=judge_name,
            servers=servers,
            served=served,
            accelerator=accelerator,
            progress=progress,
            until_done=until_done,
        )


def _evaluate(
    runs: Sequence[RunFolder],
    out: RunFolder,
    *,
    prompts: Mapping[str, PromptSet],
    config: EvaluationConfig,
    judge_name: str,
    servers: Servers,
    served: Mapping[AgentID, Agent],
    accelerator: Accelerator,
    progress: Progress,
    until_done: ExitStack,
) -> Results:
    """Play what ``out`` lacks, which no other process can open until that is done; the rest as in ``evaluate``."""
    check_engine(config.engine, processes=accelerator.num_processes)
    recipes = [with_engine(read_recipe(folder), config.engine) for folder in runs]
    if (config.latency or config.capabilities) and accelerator.num_processes > 1 and any(r.shard for r in recipes):
        raise UsageError(
            "--latency and --capabilities are measured in one process, and here each has a part of the weights. Run "
            "this command without torchrun, or leave them out."
        )
    names = system_names(runs, recipes)
    rules = _pair_rules(recipes)
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
        "safeguard": config.safeguard,
        "samples_per_prompt": config.samples,
    }
    if runs:
        about["training_judge"] = recipes[0].judge
    if servers.models:
        about["servers"] = servers.about()
    by_main_process(lambda: until_done.enter_context(alone(writable_folder(out.path))), accelerator)
    check_same(out, about)
    judge = asked(judge_name)
    guard: Judge | None = None if config.safeguard == CLASSIFIER else asked(config.safeguard)
    sets = prompts
    if runs:
        bench = workbench(recipes[0], base_folder(runs[0], recipes[0]), accelerator=accelerator)
        guard = guard or RequestClassifier(bench.training_prompts)
        sets = sets or bench.tests
        if not config.exclude_unreadable:
            check_readable(chain(*sets.values()), bench.agents)
        about["players"] = players(bench)
    tests = {name: list(test) * config.samples for name, test in sets.items()}
    for name, system in product(tests, (*names, *SERVED.values())):
        out.games_of_system(name, system)  # a name that no file can have is told before anything is played
    done = {name: systems_done(out, name, test) for name, test in tests.items()}  # games of other prompts are told here
    served_rules = rules if FEEDBACK in served else replace(rules, max_rounds=0)
    if served:  # one game of which nothing is kept: a server that does not answer is told now
        first = [prompt for test in tests.values() for prompt in test][:1]
        play(first, served, rules=served_rules, exclude_unreadable=config.exclude_unreadable)
    untrained = config.untrained and bool(runs)
    count = len(tests) * (2 * untrained + bool(served) + len(runs))
    watch = Watch(count, progress if accelerator.is_main_process else quiet)
    watched_judge = watch.judge(judge)

    def work(parts: Iterable[Part]) -> None:
        for part in parts:
            watch.begin(f"{part.prompt_set}: {', '.join(part.systems)}")
            if not done[part.prompt_set].issuperset(part.systems):
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
    if untrained:
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
    if served:
        agents = watch.agents(served)
        answers = tuple(name for name in SERVED.values() if name != "served_safeguard" or guard)
        answers = answers if FEEDBACK in served else answers[:-1]
        play_served = partial(served_systems, rules=served_rules, guard=guard, **shared)
        work(Part(name, answers, test, partial(play_served, test, agents)) for name, test in tests.items())
    for folder, recipe, system in zip(runs, recipes, names, strict=True):
        if folder != runs[0]:
            close_engines(bench.agents)
            bench = workbench(recipe, base_folder(folder, recipe), accelerator=accelerator)
        if not load_weights(folder, bench):
            about["runs"][system]["interrupted"] = True
        agents = watch.agents(bench.agents)
        trained = (system, f"{system}_safeguard") if recipe.method == "single-model" else (system,)
        play_trained = partial(trained_systems, recipe=recipe, name=system, guard=guard, **shared)
        work(Part(name, trained, test, partial(play_trained, test, agents)) for name, test in tests.items())
    if not accelerator.is_main_process:
        return {}
    if config.latency and guard:
        name, test = next(iter(tests.items()))
        readable = {game.prompt for game in read_games(out.games_of_system(name, names[-1]))}
        timed = [prompt for prompt in test if prompt in readable]
        count = min(config.latency, len(timed))
        about["latency"] = latency(
            [timed[number * len(timed) // count] for number in range(count)],
            bench.agents,
            guard=guard,
            judge=judge,
            rules=_pair_rules(recipes[::-1]),
        )
        add_systems(out, {}, about)
    if config.capabilities:
        policy = policies_of(bench.agents).get(CONVERSATION)
        if not isinstance(policy, LanguageModelPolicy):
            raise UsageError("Capabilities are measured on a conversation agent whose weights are in this process.")
        about["capabilities"] = capabilities(policy, config.capabilities, limit=config.capability_limit)
    return add_systems(out, {}, about)


def _check_players(runs: Sequence[RunFolder], servers: Servers, *, complete: bool, config: EvaluationConfig) -> None:
    """Check that something plays, and that everything is named that a run would tell: see ``evaluate``."""
    if not runs and not servers.models:
        raise UsageError("An evaluation needs at least one run, or a chat server (--conversation-url).")
    if servers.models and CONVERSATION not in servers.models:
        raise UsageError("--feedback-url needs --conversation-url: the server that its feedback is given to.")
    if not runs and not complete:
        raise UsageError("Without a run, name the prompts (--prompts) and the judge (--judge).")
    if not runs and (config.latency or config.capabilities):
        raise UsageError("--latency and --capabilities measure a run; name one.")


def check_same(out: RunFolder, about: Results) -> None:
    """Check that what ``out`` holds belongs to the same experiment.

    Raises:
        UsageError: it holds a run or results that were made in another way.
        DataError: the results there are damaged.
    """
    if out.has_config():
        raise UsageError(f"{out.path} is the folder of a run. Choose another --out.")
    earlier: Mapping[str, Any] = read_results(out)
    if earlier and ("cross_play" in earlier) != ("cross_play" in about):
        held = "an evaluation with --cross" if "cross_play" in earlier else "results without --cross"
        raise UsageError(f"{out.path} holds {held}. Choose another --out.")
    for name, value in about.items():
        if not earlier or name in ("games", "cross_play"):
            continue
        before = earlier.get(name)
        if before is None and name in ("servers", "training_judge"):  # they came with what plays now
            continue
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
    about = json.loads(dump_json(run))
    # A setting that is newer than the folder is None where it is not used.
    return {name: value for name, value in about.items() if name != "interrupted" and value is not None}


def systems_done(out: RunFolder, name: str, prompts: Sequence[Prompt]) -> set[str]:
    """The systems that have been played on all of the prompts.

    Raises:
        UsageError: a system was played on other prompts.
    """
    content = read_sets(out).get(name)
    if content is None:
        return set()
    done: set[str] = set()
    for system in content["systems"]:
        path = out.games_of_system(name, system)
        if path.exists():
            played = Counter(game.prompt for game in read_games(path))
            if played.total() + content.get("excluded", {}).get(system, 0) != len(prompts) or played - Counter(prompts):
                raise UsageError(f"{path} holds games on other prompts than {name} has now. Choose another --out.")
            done.add(system)
    return done


def asked(name: str) -> Judge:
    """The judge of that name, which has answered a first question.

    Raises:
        JudgeError: it has no verdict on it.
    """
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


def _pair_rules(recipes: Sequence[Recipe]) -> Rules:
    """The rules of the first run that is played with feedback; the default rules if there is none."""
    return next((recipe.rules for recipe in recipes if recipe.rules.max_rounds > 0), Rules())
