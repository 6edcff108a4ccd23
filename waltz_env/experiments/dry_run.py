"""What a run would do, told without training: everything is built, a few games are played, and nothing is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from accelerate import Accelerator

from waltz_env.agents import LanguageModelPolicy, TinkerAgent, TransformersAgent
from waltz_env.agents.engines import trains_elsewhere
from waltz_env.algorithms.training.learners import build_learners, update_learners
from waltz_env.algorithms.training.samples import samples
from waltz_env.errors import UsageError
from waltz_env.evaluation import rates
from waltz_env.experiments.memory import at_once, device_memory, needs, row_length
from waltz_env.game import Game
from waltz_env.judges import load_judge
from waltz_env.judging import check_judge
from waltz_env.presets import Recipe, Workbench, workbench
from waltz_env.presets.chat import ChatOptions, outlined_agents
from waltz_env.presets.chat.warm_start import WarmStart
from waltz_env.prompts import PromptSet
from waltz_env.protocols import Agent, Judge
from waltz_env.rollout import check_readable, play
from waltz_env.run_folder import RunFolder
from waltz_env.transcript import printable, transcript
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Completion, NoVerdict, Prompt, Trajectory

GAMES = 8
SHOWN_GAMES = 3
LEARNABLE = 0.1
"""Share of well-formed critiques below which reinforcement learning has too few to reinforce."""


PHASES = {"sampling": "games are played", "update": "weights are updated"}
REMEDIES = {
    "base weights": "Choose a smaller model, --dtype bfloat16 or --quantize 4bit.",
    "gradients and optimizer": "Train adapters instead of all weights, or a smaller --adapter-rank.",
    "merged weights": "Choose a smaller model or --dtype bfloat16.",
    "KV cache": "Choose a smaller --batch-size or --context.",
    "reading prompts": "Choose a smaller --batch-size or --context.",
    "drawing tokens": "Choose a smaller --batch-size.",
    "activations": "Choose --gradient-checkpointing, or a smaller --learner.tokens-per-microbatch or --context.",
    "logits": "Choose a smaller --learner.logits-at-once.",
}
"""What to do about the part that needs most."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the report.

    Attributes:
        title: what it is about.
        lines: what was found.
    """

    title: str
    lines: Sequence[str]


def dry_run(recipe: Recipe, *, accelerator: Accelerator) -> Iterator[Part]:
    """Build everything that a run needs, play a few games, and tell what was found, part by part.

    A warm start is left out: the games are those of the models as they are.

    Args:
        recipe: settings of the run.
        accelerator: device and processes.

    Raises:
        UsageError: the run could not work; the parts before have been told.
        DataError: a set of prompts cannot be loaded.
        JudgeError: the judge has no verdict on easy questions.
        UnreadablePromptError: a prompt does not fit the model's context, and such prompts are not to be left out.
    """
    recipe.check()
    options = recipe.options
    quantize = options.quantize if isinstance(options, ChatOptions) else "none"
    is_here = not trains_elsewhere(recipe.engine)
    if (
        isinstance(options, ChatOptions) and is_here
    ):  # told before the weights are loaded, which may be what does not fit
        outlined = outlined_agents(recipe, accelerator=accelerator)
        yield from _memory(outlined, recipe, quantize=quantize, accelerator=accelerator)
    judge = load_judge(recipe.judge)
    yield Part(f"Judge: {recipe.judge}", _judge_lines(judge, recipe.judge))
    untaught = replace(options, warm_start=0) if isinstance(options, ChatOptions) else options
    with TemporaryDirectory(prefix="waltz-dry-run-") as folder:
        bench = workbench(replace(recipe, options=untaught), RunFolder(Path(folder)), accelerator=accelerator)
        yield Part("Models", _model_lines(bench.agents))
        if not isinstance(options, ChatOptions):
            yield from _memory(bench.agents, recipe, quantize=quantize, accelerator=accelerator)
        yield Part("Prompts", _prompt_lines(bench))
        everything = list(chain(bench.training_prompts, bench.validation, *bench.tests.values()))
        if not recipe.loop.exclude_unreadable:
            check_readable(everything, bench.agents)
        start = time.perf_counter()
        games = play(
            _sample(bench.training_prompts, recipe.seed),
            bench.agents,
            judge=judge,
            rules=recipe.rules,
            branches=recipe.loop.branches,
        )
        played = time.perf_counter() - start
        yield Part("Lengths in tokens", _length_lines(bench.agents, games))
        for number, game in enumerate(games[:SHOWN_GAMES], 1):
            yield Part(f"Sample game {number}, {game.prompt.kind}", transcript(game))
        yield Part("Format", _format_lines(games, options))
        updates = _updates(recipe, bench.agents, games, accelerator=accelerator)
        yield Part("Time", _time_lines(recipe, bench, playing=played, updates=updates, games=len(games)))


def too_malformed(rate: float | None, critiques: int, options: object) -> str | None:
    """What to tell if too few critiques are well-formed to learn from; None if enough are.

    Args:
        rate: share of the critiques that are well-formed; None if there are none.
        critiques: number of critiques.
        options: the preset's own settings.
    """
    if rate is None or rate >= LEARNABLE:
        return None
    told = f"{round(rate * critiques)} of {critiques} critiques are well-formed: too few to learn from."
    if not isinstance(options, ChatOptions):
        return told
    if options.warm_start:
        return (
            f"{told} A longer warm start teaches more of the format: --warm-start {max(300, 2 * options.warm_start)}."
        )
    told = f"{told} Teach the format first: --warm-start 300"
    if options.system_prompts == "short":
        return f"{told}."
    return (
        f"{told}, and for a model of less than a billion parameters --system-prompts short; docs/own-model.md has all "
        "settings for small models."
    )


def _memory(
    agents: Mapping[AgentID, Agent], recipe: Recipe, *, quantize: str, accelerator: Accelerator
) -> Iterator[Part]:
    """What the run needs against what the device has.

    Raises:
        UsageError: it cannot fit.
    """
    device = accelerator.device
    parts = needs(agents, recipe, quantize=quantize, processes=accelerator.num_processes)
    has, needed = device_memory(device), at_once(parts)
    whens = [f", while {PHASES[part.phase]}" if part.phase else "" for part in parts]
    lines = [f"{part.what}{when}: {_gigabytes(part.size)}" for part, when in zip(parts, whens, strict=True)]
    lengths = sorted({row_length(each) for each in agents.values() if isinstance(each, TransformersAgent)})
    lines.append(f"about {_gigabytes(needed)} at once, with rows of {lengths[-1] if lengths else 0:,} tokens")
    lines.append(f"{device} has {_gigabytes(has)}")
    yield Part("Memory, estimated", lines)
    if needed > has:
        largest = max(parts, key=lambda part: part.size)
        raise UsageError(
            f"The run needs about {_gigabytes(needed)} and {device} has {_gigabytes(has)}. Most of it are the "
            f"{largest.what}. {REMEDIES.get(largest.what, '')}"
        )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _updates(
    recipe: Recipe, agents: Mapping[AgentID, Agent], games: Sequence[Trajectory], *, accelerator: Accelerator
) -> dict[AgentID, float]:
    """Each agent's seconds of one update on its samples of ``games``. What it learns is thrown away with the models."""
    stage = max(recipe.stages, key=lambda each: len(each.learners))
    learners = build_learners(stage, agents, accelerator)
    rng = np.random.default_rng(recipe.seed)
    drawn = {
        name: [
            replace(sample, reward=float(number // 2 % 2))  # an update on equal rewards would be skipped
            for number, sample in enumerate(
                samples(
                    games,
                    name,
                    weights=stage.weights,
                    rng=rng,
                    config=recipe.loop.samples,
                    branches=recipe.loop.branches,
                )
            )
        ]
        for name in learners
    }
    metrics = update_learners(learners, drawn)
    sharing = {name: sum(other is learner for other in learners.values()) for name, learner in learners.items()}
    return {name: metrics[name]["update_seconds"] / sharing[name] for name in learners}


def _time_lines(
    recipe: Recipe, bench: Workbench, *, playing: float, updates: Mapping[AgentID, float], games: int
) -> list[str]:
    """Seconds measured on a few games, and what follows for the run.

    Args:
        recipe: settings of the run.
        bench: prompts of the run.
        playing: seconds that ``games`` games took.
        updates: seconds that each agent's update on them took.
        games: number of games.
    """
    scale = recipe.loop.games / games
    step = {
        stage.name: scale * (playing + sum(updates.get(name, 0.0) for name in stage.learners))
        for stage in recipe.stages
    }
    training = sum(stage.steps * step[stage.name] for stage in recipe.stages)
    held_out = recipe.test_samples * sum(map(len, bench.tests.values()))
    between = sum(stage.steps > 0 for stage in recipe.stages[:-1]) if recipe.test_each_stage else 0
    tested = 2 + between  # before training, after each stage that is tested, after training
    testing = tested * held_out * playing / games
    told = ", ".join(f"{name}'s update {_duration(seconds)}" for name, seconds in updates.items())
    lines = [f"{games} games: playing {_duration(playing)}, {told}"]
    lines += [
        f"{stage.name}: {stage.steps:,} steps of {recipe.loop.games:,} games, about {_duration(step[stage.name])} each"
        for stage in recipe.stages
    ]
    lines.append(f"{held_out:,} held-out games, played {tested} times: about {_duration(testing)}")
    options = recipe.options
    warm = 0.0
    if isinstance(options, ChatOptions) and options.warm_start:
        rows = options.warm_start * WarmStart().batch_size
        warm = rows / games * (max(updates.values(), default=0.0) + playing / 2)
        lines.append(f"warm start: at most {_duration(warm)}")
    lines.append(f"in all: about {_duration(training + testing + warm)}; larger batches take less time per game")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _judge_lines(judge: Judge, name: str) -> list[str]:
    lines = []
    for prompt, response, answer in check_judge(judge, name):
        if isinstance(answer, NoVerdict):
            verdict = f"no verdict: {printable(answer.reason)}"
        else:
            flags = [flag for flag in ("unsafe", "overrefuse") if getattr(answer.labels, flag)]
            verdict = " and ".join(flags) or "satisfactory"
        lines.append(f"{prompt.text} - {response} -> {verdict}")
    return lines


def _policies(agents: Mapping[AgentID, Agent]) -> dict[AgentID, LanguageModelPolicy]:
    found = {name: getattr(agent, "policy", None) for name, agent in agents.items()}
    return {name: policy for name, policy in found.items() if isinstance(policy, LanguageModelPolicy)}


def _model_lines(agents: Mapping[AgentID, Agent]) -> list[str]:
    lines = [
        f"{name}: {agent.policy.model}, on the service; trained: an adapter of rank {agent.policy.rank}"
        for name, agent in agents.items()
        if isinstance(agent, TinkerAgent)
    ]
    for name, policy in _policies(agents).items():
        base = {each: tensor for each, tensor in policy.model.named_parameters() if ".lora_" not in each}
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in base.values()})
        trained = sum(parameter.numel() for parameter in policy.parameters())
        what = "all weights" if policy.rank is None else f"an adapter of rank {policy.rank}"
        lines.append(
            f"{name}: {policy.model.name_or_path or type(policy.model).__name__}, "
            f"{sum(map(_numel, base.values())):,} parameters in {', '.join(dtypes)}; trained: {what}, {trained:,}"
        )
    models = {id(policy.model) for policy in _policies(agents).values()}
    if len(models) == 1 and len(lines) > 1:
        lines.append("Both roles share one base.")
    return lines


def _numel(tensor: Any) -> int:
    """The number of weights; a tensor of 4 bits holds two per byte and knows how many it had."""
    state = getattr(tensor, "quant_state", None)
    return int(tensor.numel() if state is None else state.shape.numel())


def _prompt_lines(bench: Workbench) -> list[str]:
    rows = [("", "harmful", "benign", "left out: repeated", "in a test set")]
    rows += [
        (source.name, *_kinds(source.taken), f"{source.repeated:,}", f"{source.held_out:,}") for source in bench.sources
    ]
    if not bench.sources:
        rows.append(("to train on", *_kinds(bench.training_prompts), "", ""))
    elif len(bench.validation):
        rows.append(("of them held out for validation", *_kinds(bench.validation), "", ""))
    rows += [(f"test: {name}", *_kinds(test), "", "") for name, test in bench.tests.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return [
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]


def _kinds(prompts: PromptSet) -> tuple[str, str]:
    return f"{len(prompts.harmful):,}", f"{len(prompts.benign):,}"


def _sample(prompts: PromptSet, seed: int) -> list[Prompt]:
    """A few prompts, harmful and benign in turn."""
    pairs = zip(prompts.harmful.shuffle(seed), prompts.benign.shuffle(seed), strict=False)
    return list(chain.from_iterable(pairs))[:GAMES]


def _length_lines(agents: Mapping[AgentID, Agent], games: Sequence[Trajectory]) -> list[str]:
    lines = []
    for name, agent in agents.items():
        turns = [
            turn.completion for game in games for turn in (game.responses if name == CONVERSATION else game.critiques)
        ]
        if isinstance(agent, TransformersAgent | TinkerAgent) and turns:
            shown = Game(games[0].prompt)
            if name == FEEDBACK:
                shown.act(games[0].responses[0].completion)
            head = agent.encoder.template(shown.observe(name))[0]
            system = len(agent.encoder.tokenizer.encode(head["content"])) if head["role"] == "system" else 0
            prompts, said = ([len(ids or ()) for ids in column] for column in zip(*map(_ids, turns), strict=True))
            lines.append(
                f"{name}: system prompt {system:,}; in the sample games, prompts {min(prompts):,} to {max(prompts):,} "
                f"of {agent.encoder.max_tokens:,} that fit, completions {min(said):,} to {max(said):,} of "
                f"{agent.max_new_tokens:,} at most"
            )
    return lines


def _ids(completion: Completion) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    return completion.prompt_ids, completion.token_ids


def _format_lines(games: Sequence[Trajectory], options: object) -> list[str]:
    rate = rates(games)["format_rate"]
    if not rate.n:
        return ["No feedback was given."]
    counted = f"{round(rate.value * rate.n)} of {rate.n} critiques are well-formed."
    if isinstance(options, ChatOptions) and options.warm_start:
        return [f"{counted} The warm start, which is left out here, will teach the format."]
    return [too_malformed(rate.value, rate.n, options) or counted]
