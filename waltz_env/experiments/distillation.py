"""A conversation agent that learns to answer alone as its pair does: the pipeline behind ``waltz distill``."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from waltz_env.agents import LanguageModelPolicy, TransformersAgent
from waltz_env.agents.engines import TRANSFORMERS
from waltz_env.agents.transformers_agent import end_of_turn
from waltz_env.algorithms.supervised import SupervisedConfig, fit
from waltz_env.algorithms.training import checkpoint
from waltz_env.algorithms.training.learners import policies_of
from waltz_env.checks import check_integer, check_number, check_settings
from waltz_env.errors import UsageError
from waltz_env.experiments.evaluation import asked
from waltz_env.experiments.latency import Way, deployed, timed
from waltz_env.experiments.results import Results, about_run, add_systems
from waltz_env.experiments.saved_run import (
    base_folder,
    claim,
    load_run,
    load_weights,
    newest_checkpoint,
    read_recipe,
    with_engine,
)
from waltz_env.experiments.systems import TRAINED, trained_systems
from waltz_env.experiments.watch import Progress, Watch, quiet
from waltz_env.files import alone, atomic_folder
from waltz_env.game import Game
from waltz_env.judges import without_noise
from waltz_env.presets import Recipe, Workbench, with_distillation, workbench
from waltz_env.protocols import Agent, Judge
from waltz_env.records import read_games, training_games
from waltz_env.run_folder import RunFolder
from waltz_env.serving import Mode
from waltz_env.types import CONVERSATION, FEEDBACK, Prompt, Trajectory

FASTER = 5.0
"""The default learning rate of supervised learning over that of the run's reinforcement learning."""


@dataclass(frozen=True, slots=True)
class DistillConfig:
    """How a conversation agent learns from the games of its run.

    Attributes:
        epochs: how often each response is learned from.
        batch_size: responses per step.
        learning_rate: peak learning rate; by default five times that of the run's conversation agent.
        latency: number of prompts on which the distilled agent and the pair are timed; 0 for none.
    """

    epochs: int = 2
    batch_size: int = 32
    learning_rate: float | None = None
    latency: int = 30

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("epochs", "batch_size"):
            check_integer(name, getattr(self, name), at_least=1)
        if self.learning_rate is not None:
            check_number("learning_rate", self.learning_rate, low=0)
        check_integer("latency", self.latency, at_least=0)


def distill(
    run: RunFolder,
    out: RunFolder,
    *,
    config: DistillConfig | None = None,
    accelerator: Accelerator | None = None,
    on_step: Callable[[int, int], object] = lambda step, of: None,
    progress: Progress = quiet,
) -> Results:
    """Teach the conversation agent of a run to answer at once what the games of its training arrived at.

    Its examples are the training games' responses that the judge calls satisfactory, drafts and revisions, each as an
    answer to the prompt alone. ``out`` becomes a run folder whose conversation agent answers without feedback, with
    results of the distilled agent next to what the run trained. What is there already, by the same command, is not done
    again; interrupted learning begins again, and gives the same weights.

    Args:
        run: folder of a run with its training games.
        out: folder for the distilled run.
        config: how to learn.
        accelerator: device; the default is a new one.
        on_step: called after each step with the number of steps done and of all steps.
        progress: told what has been done of the evaluation.

    Raises:
        UsageError: the run has no training games with a satisfactory response, was distilled itself, or has a
            conversation agent without weights in this process; there are several processes; or ``out`` holds another
            run. Nothing has been done then.
        CheckpointError: the run has no checkpoint.
        JudgeError: the judge has no verdict on a first question.
    """
    config, accelerator = config or DistillConfig(), accelerator or Accelerator()
    recipe = with_engine(read_recipe(run), TRANSFORMERS)
    if recipe.distilled is not None:
        raise UsageError(f"{run.path} has been distilled already. Name the run that it was distilled from.")
    if accelerator.num_processes > 1:
        raise UsageError("waltz distill runs in one process; start it without `accelerate launch`.")
    newest = newest_checkpoint(run)
    good = [response for step in training_games(run) for response in good_responses(step)]
    if not good:
        raise UsageError(f"{run.path} has no training games with a satisfactory response in {run.training_games}.")
    examples = [(prompt, text) for prompt, text, _ in good]
    drafts = sum(is_draft for *_, is_draft in good)
    about = {
        "folder": str(run.path),
        "checkpoint": newest.name,
        "drafts": drafts,
        "revisions": len(good) - drafts,
    }
    judge = asked(without_noise(recipe.judge))
    fitted = SupervisedConfig(
        steps=math.ceil(config.epochs * len(examples) / config.batch_size),
        batch_size=config.batch_size,
        learning_rate=_learning_rate(recipe) if config.learning_rate is None else config.learning_rate,
        tokens_per_microbatch=2048,
        bf16=accelerator.mixed_precision == "bf16",
        seed=recipe.seed,
    )
    distilled = with_distillation(recipe, fitted)
    if not out.has_config():
        claim(out, distilled)
    elif read_recipe(out) != distilled:
        raise UsageError(f"{out.path} holds another run, or was distilled with other settings. Choose another --out.")
    with alone(out.path):
        kept = base_folder(run, recipe)
        for source, target in ((kept.base, out.base), (kept.prompts, out.prompts)):
            _copy(source, target)
        if checkpoint.latest(out.checkpoints) is None:
            _, bench = load_run(run, accelerator)
            learn(bench.agents[CONVERSATION], examples, config=fitted, on_step=on_step)
            _save(bench, out, steps=fitted.steps, about=about)
        if checkpoint.load(newest_checkpoint(out))[1]["distilled"] != about:
            raise UsageError(f"{out.path} was distilled from another run or checkpoint. Choose another --out.")
        return _evaluate(
            run,
            out,
            recipes={TRAINED[recipe.method]: recipe, "distilled": distilled},
            about=about,
            judge=judge,
            latency=config.latency,
            accelerator=accelerator,
            progress=progress,
        )


def good_responses(games: Iterable[Trajectory]) -> list[tuple[Prompt, str, bool]]:
    """The last satisfactory response of each game that has one: prompt, text, and whether it is the draft.

    Responses that ended at a length limit are left out.
    """
    found = []
    for game in games:
        good = [i for i, each in enumerate(game.responses) if each.labels and each.labels.ok]
        if good and not game.responses[good[-1]].completion.truncated:
            found.append((game.prompt, game.responses[good[-1]].text, good[-1] == 0))
    return found


def learn(
    agent: Agent,
    answers: Sequence[tuple[Prompt, str]],
    *,
    config: SupervisedConfig,
    on_step: Callable[[int, int], object] = lambda step, of: None,
) -> list[float]:
    """Teach an agent to answer each prompt with its response, as a draft, by supervised learning.

    Args:
        agent: agent on transformers.
        answers: prompts and responses.
        config: settings of the learning.
        on_step: called after each step with the number of steps done and of all steps.

    Returns:
        The loss of each step, in nats per token.

    Raises:
        UsageError: the agent's weights are not in this process.
        UnreadablePromptError: a prompt exceeds the model's context.
    """
    if not isinstance(agent, TransformersAgent):
        raise UsageError("Only an agent with weights in this process can learn from games; this one is on a server.")
    tokenizer = agent.policy.tokenizer
    prompts = agent.encoder.encode([Game(prompt).observe(CONVERSATION) for prompt, _ in answers])
    targets = tokenizer([text for _, text in answers], add_special_tokens=False)["input_ids"]
    end = [token for token in (end_of_turn(tokenizer),) if token is not None]
    examples = [(prompt, [*target, *end]) for prompt, target in zip(prompts, targets, strict=True)]
    return fit(agent.policy, examples, config=config, on_step=lambda step, _: on_step(step, config.steps))


def _evaluate(
    run: RunFolder,
    out: RunFolder,
    *,
    recipes: Mapping[str, Recipe],
    about: Mapping[str, Any],
    judge: Judge,
    latency: int,
    accelerator: Accelerator,
    progress: Progress,
) -> Results:
    """Results of the distilled agent and of what the run trained, by the names and recipes in ``recipes``."""
    bench = workbench(recipes["distilled"], out, accelerator=accelerator)
    load_weights(out, bench)
    teacher = cache(lambda: load_run(run, accelerator)[1])  # loaded once, if it is needed
    tests = {name: list(test) * recipes["distilled"].test_samples for name, test in bench.tests.items()}
    watch = Watch(len(recipes) * len(tests), progress)
    results = add_systems(out, {}, about_run(recipes["distilled"], bench) | {"distilled": dict(about)})

    def games(name: str, system: str) -> list[Trajectory]:
        own = system == "distilled"
        if not own and (stored := _stored(run.games_of_system(name, system), tests[name])):
            return stored
        return trained_systems(
            tests[name],
            watch.agents((bench if own else teacher()).agents),
            judge=watch.judge(judge),
            recipe=recipes[system],
            name=system,
            accelerator=accelerator,
            exclude_unreadable=recipes[system].loop.exclude_unreadable,
        )[system]

    for name, system in product(tests, recipes):
        watch.begin(f"{name}: {system}")
        if system not in results["sets"].get(name, {"systems": {}})["systems"]:
            results = add_systems(out, {name: {system: games(name, system)}}, expected={name: len(tests[name])})
        watch.end()
    if latency and "latency" not in results:
        with ExitStack() as stack:
            ways: dict[str, Way] = {}
            for system, agents in (("distilled", bench.agents), (next(iter(recipes)), teacher().agents)):
                mode: Mode = "adaptive" if recipes[system].rules.max_rounds else "off"
                duet = deployed(agents, mode=mode, rules=recipes[system].rules)
                ways[system] = stack.enter_context(closing(duet)).respond
            actors = [*bench.agents.values(), *teacher().agents.values()]
            found = timed(next(iter(tests.values()))[:latency], ways, agents=actors, judge=judge)
            results = add_systems(out, {}, {"latency": found})
    return results


def _stored(path: Path, prompts: Sequence[Prompt]) -> list[Trajectory]:
    """The games in a file if they are on these prompts; otherwise none."""
    games = read_games(path) if path.exists() else []
    return games if Counter(game.prompt for game in games) == Counter(prompts) else []


def _learning_rate(recipe: Recipe) -> float:
    """A multiple of the learning rate of the conversation agent, or else of any agent."""
    learners = [stage.learners.get(agent) for agent in (CONVERSATION, FEEDBACK) for stage in reversed(recipe.stages)]
    surrogates = [surrogate for each in learners if (surrogate := getattr(each, "surrogate", None)) is not None]
    if not surrogates:
        raise UsageError("The run's algorithm has no learning rate to start from: name one with --learning-rate.")
    return FASTER * float(surrogates[0].learning_rate)


def _copy(source: Path, target: Path) -> None:
    if source.exists() and not target.exists():
        with atomic_folder(target) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)


def _save(bench: Workbench, out: RunFolder, *, steps: int, about: Mapping[str, Any]) -> None:
    """The weights as a finished run has them; the checkpoint comes last."""
    policies = policies_of(bench.agents)
    policy = policies[CONVERSATION]
    policy.version += steps
    if isinstance(policy, LanguageModelPolicy):
        policy.save(out.weights / CONVERSATION)
    meta = {
        "distilled": about,
        "versions": {name: each.version for name, each in policies.items()},
        "position": {"stage": 0, "step_in_stage": steps},
        "settings": {"stages": [{"steps": steps}]},
    }
    tensors = {f"policy/{name}": each.state_dict() for name, each in policies.items()}
    checkpoint.save(out.checkpoints / f"step-{steps:05d}", tensors, meta, keep=1)
