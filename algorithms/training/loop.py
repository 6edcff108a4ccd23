"""The training loop: draw prompts, play games, turn them into samples, update the learners, evaluate, save.

1. As arXiv:2510.08240, algorithm 1: each step plays a batch of games with the current agents; each agent that learns in
   this stage then makes one update on its own samples of those games. The samples of both agents are drawn before
   either agent is updated. Agents with the same policy make one update together.
2. Left open by the paper, chosen here: each stage begins with a fresh optimizer; prompts are walked through in a seeded
   order that is reshuffled every epoch.
3. Beyond the paper: trees of games (``branches``, for learners with a group baseline), held-out games during training,
   exact continuation after an interruption, several processes, and, where engines allow it, playing the next games
   during the update (``max_staleness``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from math import prod
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from waltz_env.algorithms.protocols import Metrics
from waltz_env.algorithms.training import checkpoint
from waltz_env.algorithms.training.learners import (
    build_learners,
    check_trainable,
    first_references,
    reset_references,
    update_learners,
)
from waltz_env.algorithms.training.rollout_worker import RolloutWorker
from waltz_env.algorithms.training.run_log import Logger, RunLog
from waltz_env.algorithms.training.samples import SampleConfig, check_turns, samples
from waltz_env.algorithms.training.saved_state import Parts, Position, load, save
from waltz_env.algorithms.training.stages import Stage
from waltz_env.algorithms.training.step_metrics import step_metrics
from waltz_env.branches import ALONE, Branches, check_branches
from waltz_env.checks import check_integer, check_settings
from waltz_env.errors import DivergedError, JudgeError, UsageError
from waltz_env.evaluation.held_out import play_held_out
from waltz_env.evaluation.metrics import no_verdict_reasons, rates
from waltz_env.prompts import PromptCursor, PromptSet
from waltz_env.protocols import Agent, Judge
from waltz_env.rollout import check_readable
from waltz_env.run_folder import RunFolder
from waltz_env.settings import encode
from waltz_env.types import AgentID, Prompt


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """Settings of the loop; an algorithm has its own config.

    Attributes:
        games: games per step, over all processes; 32 in the paper. With branches, every way through a tree is a game,
            and a step has n k m times fewer prompts.
        branches: n drafts per prompt, k critiques per draft and m revisions per critique, in the first round of a game.
            More than 1 for learners with a group baseline, see ``waltz_env.branches``.
        samples: which turns of the games become training samples, and which samples share a baseline.
        save_every: steps between checkpoints; one is always saved at the end of a stage and when training stops early.
        keep_checkpoints: number of checkpoints to keep.
        evaluate_every: steps between evaluations on the validation prompts; 0 for never.
        overlap_judge: ask the judge about drafts while the feedback agent is at work, see ``play``.
        max_staleness: largest number of updates between the weights that sampled and those that learn. 0: exactly
            on-policy. 1: the games of the next step are played during the update, by agents whose engine has weights of
            its own.
        exclude_unreadable: leave out, and count, games on prompts that a model cannot read because they are longer than
            its context or its chat template refuses them, in training and in evaluation. They are an error by default.
    """

    games: int = 32
    branches: Branches = ALONE
    samples: SampleConfig = field(default_factory=SampleConfig)
    save_every: int = 10
    keep_checkpoints: int = 2
    evaluate_every: int = 0
    overlap_judge: bool = False
    max_staleness: int = 0
    exclude_unreadable: bool = False

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("games", "save_every", "keep_checkpoints"):
            check_integer(name, getattr(self, name), at_least=1)
        check_integer("evaluate_every", self.evaluate_every, at_least=0)
        check_branches(self.branches)
        check_turns(self.samples, self.branches)
        if self.games % prod(self.branches):
            n, k, m = self.branches
            raise UsageError(
                f"games ({self.games}) must be a multiple of {prod(self.branches)}: branches {self.branches} make "
                f"{n} x {k} x {m} games of each prompt."
            )
        if self.max_staleness not in (0, 1):
            raise UsageError(f"max_staleness must be 0 or 1; got {self.max_staleness}.")


@dataclass(frozen=True, slots=True)
class StepReport:
    """What ``train`` tells its ``progress`` hook when a stage begins and after each of its steps.

    Attributes:
        stage: the stage.
        step_in_stage: steps of the stage that are done.
        step: steps of all stages that are done.
        metrics: metrics of the step; empty when a stage begins.
    """

    stage: Stage
    step_in_stage: int
    step: int
    metrics: Metrics


def train(
    agents: Mapping[AgentID, Agent],
    stages: Sequence[Stage],
    *,
    judge: Judge,
    prompts: PromptSet | Mapping[str, PromptSet],
    folder: RunFolder | Path,
    config: LoopConfig | None = None,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    validation: PromptSet | None = None,
    resume: bool = False,
    loggers: Sequence[Logger] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[StepReport], object] = lambda report: None,
    after_stage: Callable[[Stage], object] = lambda stage: None,
) -> bool:
    """Train the agents that ``stages`` name.

    It works in any thread: signals and progress bars are the caller's.

    Args:
        agents: who plays. An agent that learns carries its weights in ``policy`` (``Trainable``).
        stages: what to train, in order.
        judge: labels every response.
        prompts: one set for all stages, or one for each stage by the stage's name.
        folder: run folder for the checkpoints and, by default, the logs.
        config: settings of the loop.
        seed: seed of the order of the prompts and of the choice of samples.
        accelerator: device, precision and processes; the default is a new one.
        validation: held-out prompts for the evaluations during training.
        resume: continue from the newest checkpoint in ``folder``, exactly as if there had been no interruption. On
            another number of processes, the games to come are others than they would have been.
        loggers: where metrics and games go; the default is one ``RunLog`` in ``folder``. Only the main process logs.
        should_stop: asked after every step; once it returns True in any process, training stops with a checkpoint.
        progress: called in the main process when a stage begins and after each of its steps.
        after_stage: called in every process once a stage has all its steps and its checkpoint. If training stopped
            there, it is called when training goes on.

    Returns:
        True when all stages are done; False when ``should_stop`` ended the training early.

    Raises:
        UsageError: a stage trains an agent without a policy, a stage has no prompts, or ``max_staleness`` asks for an
            agent to act during the update that cannot.
        CheckpointError: ``resume`` without a checkpoint, or with one that other settings made.
        UnreadablePromptError: a model cannot read a prompt, and ``exclude_unreadable`` is off.
        DivergedError: an agent's model or its gradient is NaN or infinite; the message names the agent or the model,
            the step, and the newest good checkpoint. If it is the gradient, the games of the step are logged.
        JudgeError: the judge gave no verdict on any game of a step.
    """
    config = config or LoopConfig()
    accelerator = accelerator or Accelerator()
    folder = folder if isinstance(folder, RunFolder) else RunFolder(folder)
    check_trainable(stages, agents)
    for stage in stages:
        check_branches(config.branches, stage.rules)
    prompts_of = _prompts_by_stage(prompts, stages)
    if not config.exclude_unreadable:
        check_readable(dict.fromkeys(chain(*prompts_of.values(), validation or ())), agents)
    settings = encode({"stages": stages, "loop": config, "seed": seed, "processes": accelerator.num_processes})
    saved = load(folder.checkpoints, settings) if resume else None
    position = saved.position if saved else Position()
    rng = np.random.default_rng([seed, accelerator.process_index])

    with ExitStack() as stack:
        worker = stack.enter_context(
            RolloutWorker(
                agents,
                judge,
                branches=(1, *config.branches[1:]),  # ``_draw`` deals the drafts out to the processes
                process=(accelerator.process_index, accelerator.num_processes),
                overlap_judge=config.overlap_judge,
                ahead=config.max_staleness > 0,
                exclude_unreadable=config.exclude_unreadable,
            )
        )
        active = ([RunLog(folder)] if loggers is None else loggers) if accelerator.is_main_process else []
        for logger in active:
            stack.callback(logger.close)
            logger.begin(position.step)

        for number, stage in list(enumerate(stages))[position.stage :]:
            if stage.steps == 0:
                continue
            continued = saved if saved and number == saved.position.stage else None
            references = continued.references if continued else first_references(stage, agents)
            reset_references(agents, references)
            learners = build_learners(stage, agents, accelerator)
            cursor = PromptCursor(prompts_of[stage.name], seed=seed + number)
            draw = partial(_draw, cursor, config, accelerator)
            parts = Parts(agents, learners, references, rng, cursor, worker)
            if continued:
                continued.restore(parts, accelerator)
            else:
                position = Position(number, 0, position.step)
            if accelerator.is_main_process:
                progress(StepReport(stage, position.step_in_stage, position.step, {}))

            while position.step_in_stage < stage.steps:
                position = Position(number, position.step_in_stage + 1, position.step + 1)
                stage_done = position.step_in_stage == stage.steps

                # Play, and log the games before anything is learned from them: they explain an update that fails.
                with _told_where(position.step, folder):
                    share, speed = worker.step(draw, rules=stage.rules, last=stage_done)
                games = gather_object(share)
                if not games:
                    raise UsageError(
                        f"No model can read any of the {config.games} prompts of step {position.step}. Use shorter "
                        "prompts or a model with a longer context."
                    )
                if not any(game.judged for game in games):
                    reason = next(iter(no_verdict_reasons(games)))
                    raise JudgeError(f"The judge failed on all {len(games)} games of step {position.step}: {reason}")
                for logger in active:
                    logger.games(position.step, games, weights=stage.weights)

                # Draw the samples of all agents, then update: neither agent learns from the other's new weights.
                drawn = {
                    agent: samples(
                        share, agent, weights=stage.weights, rng=rng, config=config.samples, branches=config.branches
                    )
                    for agent in learners
                }
                with _told_where(position.step, folder):
                    updates = update_learners(learners, drawn)

                metrics = step_metrics(games, updates, weights=stage.weights) | speed
                if config.exclude_unreadable:
                    metrics["games/excluded"] = float(config.games - len(games))
                if validation and config.evaluate_every and position.step % config.evaluate_every == 0:
                    worker.wait()
                    held_out = play_held_out(
                        validation,
                        agents,
                        judge=judge,
                        rules=stage.rules,
                        accelerator=accelerator,
                        exclude_unreadable=config.exclude_unreadable,
                    )
                    metrics |= {f"validation/{name}": rate.value for name, rate in rates(held_out).items()}
                for logger in active:
                    logger.metrics(position.step, stage.name, metrics)
                if accelerator.is_main_process:
                    progress(StepReport(stage, position.step_in_stage, position.step, metrics))

                stop = _any_process(should_stop(), accelerator)
                if stop or stage_done or position.step % config.save_every == 0:
                    save(
                        folder.checkpoints,
                        position,
                        parts,
                        settings=settings,
                        accelerator=accelerator,
                        keep=config.keep_checkpoints,
                    )
                if stop and not (stage_done and number + 1 == len(stages)):
                    return False
            after_stage(stage)
    return True


@contextmanager
def _told_where(step: int, folder: RunFolder) -> Iterator[None]:
    """Adds the step and the newest checkpoint that is still good to the error of a diverged model."""
    try:
        yield
    except DivergedError as error:
        good = checkpoint.latest_finite(folder.checkpoints)
        kept = f"The newest good checkpoint is {good}." if good else "There is no good checkpoint."
        raise DivergedError(f"Step {step}: {error} {kept}") from error


def _prompts_by_stage(prompts: PromptSet | Mapping[str, PromptSet], stages: Sequence[Stage]) -> Mapping[str, PromptSet]:
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise UsageError(f"Stages need different names; got {', '.join(names)}.")
    if isinstance(prompts, PromptSet):
        return dict.fromkeys(names, prompts)
    missing = [name for name in names if name not in prompts]
    if missing:
        raise UsageError(
            f"There are no prompts for stage {', '.join(missing)}; `prompts` has sets for "
            f"{', '.join(prompts) or 'no stage'}. Give one set for all stages, or one by the name of each stage."
        )
    return prompts


def _draw(cursor: PromptCursor, config: LoopConfig, accelerator: Accelerator) -> list[Prompt]:
    """The prompts of this process's share of a step's drafts; all games of a draft stay in one process."""
    prompts = cursor.next(config.games // prod(config.branches))
    drafts = [prompt for prompt in prompts for _ in range(config.branches[0])]
    return drafts[accelerator.process_index :: accelerator.num_processes]


def _any_process(stop: bool, accelerator: Accelerator) -> bool:
    """Whether any process is to stop; all must leave the loop in the same step."""
    return any(gather_object([stop])) if accelerator.num_processes > 1 else stop
