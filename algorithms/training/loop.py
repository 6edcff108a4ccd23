"""The training loop: prompts, play, samples, update, evaluate, save.

1. As arXiv:2510.08240, algorithm 1: each step plays a batch of games with the current agents; each agent that learns in
   this stage then makes one update on its own samples of those games. Both are drawn before either is updated. Agents
   with the same policy make one update together.
2. Left open by the paper, chosen here: a stage begins with a fresh optimiser; prompts are walked in a seeded order,
   reshuffled every epoch.
3. Beyond the paper: several games a prompt (for learners with a group baseline), held-out games during training,
   exact continuation after an interruption, several processes; where engines allow it, the next games played during
   the update (``max_staleness``).
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from waltz_env.algorithms.protocols import Metrics, Policy, Sample, Stateful
from waltz_env.algorithms.training.learners import build_learners, update_learners
from waltz_env.algorithms.training.rollout_worker import RolloutWorker
from waltz_env.algorithms.training.run_log import RunLog
from waltz_env.algorithms.training.samples import samples
from waltz_env.algorithms.training.saved_state import Parts, Progress, describe, load, save
from waltz_env.algorithms.training.stages import Stage
from waltz_env.errors import JudgeError, UsageError
from waltz_env.evaluation.metrics import no_verdict_reasons, rates
from waltz_env.prompts import PromptCursor, PromptSet
from waltz_env.protocols import Agent, Judge
from waltz_env.rewards import RewardWeights, score
from waltz_env.rollout import play
from waltz_env.rules import Rules
from waltz_env.types import AgentID, Prompt, Trajectory


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of the loop; those of an algorithm stand in its own config.

    Attributes:
        games: games a step, over all processes; 32 in the paper.
        games_per_prompt: games on the same prompt in one step; more than 1 for learners with a group baseline.
        rows: ``"one"`` random row an agent and game, as in the paper, or ``"all"`` its turns.
        draft_probability: of the draft c_0 as the conversation agent's row, where there is a revision to choose.
        responses: which ones the conversation agent learns from: drafts, revisions, or both, see ``samples``.
        group: what rows must share to have one baseline, see ``samples``.
        save_every: steps between checkpoints; one is always made at the end of a stage and on Ctrl-C.
        keep_checkpoints: how many of them stay.
        evaluate_every: steps between evaluations on the validation prompts; 0 for never.
        overlap_judge: ask the judge about drafts while the feedback agent is at work, see ``play``.
        max_staleness: how many updates old the weights may be that sampled a row. 0: on-policy, exactly. 1: the next
            step's games are played during the update, by agents whose engine is apart from the policy.
    """

    games: int = 32
    games_per_prompt: int = 1
    rows: Literal["one", "all"] = "one"
    draft_probability: float = 0.5
    responses: Literal["both", "drafts", "revisions"] = "both"
    group: Literal["prompt", "verdict"] = "prompt"
    save_every: int = 10
    keep_checkpoints: int = 2
    evaluate_every: int = 0
    overlap_judge: bool = False
    max_staleness: int = 0

    def __post_init__(self) -> None:
        if self.games < 1 or self.games_per_prompt < 1 or self.games % self.games_per_prompt:
            raise UsageError(
                f"games ({self.games}) must be a positive multiple of games_per_prompt ({self.games_per_prompt})."
            )
        if self.max_staleness not in (0, 1):
            raise UsageError(f"max_staleness must be 0 or 1; got {self.max_staleness}.")


def train(
    policies: Mapping[AgentID, Policy],
    agents: Mapping[AgentID, Agent],
    *,
    judge: Judge,
    prompts: PromptSet | Sequence[PromptSet],
    stages: Sequence[Stage],
    folder: Path,
    config: TrainConfig | None = None,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    validation: PromptSet | None = None,
    resume: bool = False,
) -> bool:
    """Trains the policies that ``stages`` name and leaves metrics, games and checkpoints in ``folder``.

    Args:
        policies: the weights to train; agents that never learn need none.
        agents: who plays; the agents of trained policies act with those policies' weights.
        judge: labels every response.
        prompts: one set for all stages, or one for each stage.
        stages: the recipe.
        folder: gets ``metrics.jsonl``, TensorBoard files, ``games-STEP.jsonl`` and ``checkpoints/``.
        config: settings of the loop.
        seed: of the order of prompts and of the choice of rows.
        accelerator: device, precision and processes; a default one otherwise.
        validation: held-out prompts for the evaluations during training.
        resume: continue from the newest checkpoint in ``folder``, exactly as if there had been no interruption.

    Returns:
        True when all stages are done; False after Ctrl-C or SIGTERM, with a checkpoint to resume from.

    Raises:
        UsageError: a stage trains an agent that has no policy, there is not one prompt set for each stage, or an agent
            cannot act during the update and ``max_staleness`` asks for that.
        CheckpointError: ``resume`` without a checkpoint, or with one of another recipe.
        JudgeError: the judge failed on every game of a step.
    """
    config = config or TrainConfig()
    accelerator = accelerator or Accelerator()
    sets = [prompts] * len(stages) if isinstance(prompts, PromptSet) else list(prompts)
    _check(policies, agents, stages, sets)
    recipe = describe(stages=stages, loop=config, seed=seed, processes=accelerator.num_processes)
    saved = load(folder, recipe) if resume else None
    progress = saved.progress if saved else Progress()
    rng = np.random.default_rng([seed, accelerator.process_index])
    is_main = accelerator.is_main_process
    worker = RolloutWorker(agents, judge, overlap_judge=config.overlap_judge, ahead=config.max_staleness > 0)

    with worker, RunLog(folder, first_step=progress.step, enabled=is_main) as log, stop_signal() as stopped:
        for number, stage in list(enumerate(stages))[progress.stage :]:
            learners = build_learners(stage, policies, accelerator)
            cursor = PromptCursor(sets[number], seed=seed + number)
            draw = partial(_draw, cursor, config, accelerator)
            parts = Parts(policies, learners, agents, rng, cursor, worker)
            if saved and number == saved.progress.stage:
                saved.restore(parts, accelerator.process_index)
            else:
                progress = Progress(number, 0, progress.step)

            bar = tqdm(total=stage.steps, initial=progress.step_in_stage, desc=stage.name, disable=not is_main)
            while progress.step_in_stage < stage.steps:
                progress = Progress(number, progress.step_in_stage + 1, progress.step + 1)
                done = progress.step_in_stage == stage.steps
                games, figures = worker.step(draw, stage.max_rounds, last=done)
                rows = {agent: _rows(games, stage, agent, rng, config) for agent in learners}
                updates = update_learners(learners, rows)

                games = gather_object(games)
                if not any(game.judged for game in games):
                    reason = next(iter(no_verdict_reasons(games)))
                    raise JudgeError(f"The judge failed on all {len(games)} games of step {progress.step}: {reason}")
                log.games(progress.step, games)
                metrics = step_metrics(games, stage.weights, updates) | figures
                log.metrics(progress.step, stage.name, metrics)
                if validation and config.evaluate_every and progress.step % config.evaluate_every == 0:
                    worker.wait()
                    held_out = play_held_out(agents, judge, validation, stage.max_rounds, accelerator)
                    log.metrics(progress.step, stage.name, _validation(held_out))
                bar.set_postfix(_summary(metrics), refresh=False)
                bar.update()

                stop = _agreed(bool(stopped), accelerator)
                if stop or done or progress.step % config.save_every == 0:
                    save(folder, progress, parts, recipe, accelerator=accelerator, keep=config.keep_checkpoints)
                if stop and not (done and number + 1 == len(stages)):
                    bar.close()
                    return False
            bar.close()
    return True


def _check(
    policies: Mapping[AgentID, Policy],
    agents: Mapping[AgentID, Agent],
    stages: Sequence[Stage],
    sets: Sequence[PromptSet],
) -> None:
    if len(sets) != len(stages):
        raise UsageError(f"There are {len(stages)} stages and {len(sets)} prompt sets; give one set, or one a stage.")
    for stage in stages:
        missing = sorted(stage.learners.keys() - (policies.keys() & agents.keys()))
        if missing or not stage.learners:
            raise UsageError(
                f"Stage {stage.name!r} trains {', '.join(missing) or 'no agent'}; every stage trains one agent or "
                f"more, each with a policy and an agent. Policies: {sorted(policies)}; agents: {sorted(agents)}."
            )


def _draw(cursor: PromptCursor, config: TrainConfig, accelerator: Accelerator) -> list[Prompt]:
    """The prompts of this process's part of a step's games."""
    prompts = cursor.next(config.games // config.games_per_prompt)
    games = [prompt for prompt in prompts for _ in range(config.games_per_prompt)]
    return games[accelerator.process_index :: accelerator.num_processes]


def _rows(
    games: Sequence[Trajectory], stage: Stage, agent: AgentID, rng: np.random.Generator, config: TrainConfig
) -> list[Sample]:
    return samples(
        games,
        stage.weights,
        agent,
        rng,
        draft_probability=config.draft_probability,
        rows=config.rows,
        responses=config.responses,
        group=config.group,
    )


def _agreed(stopped: bool, accelerator: Accelerator) -> bool:
    """Whether any process was told to stop; all must leave the loop in the same step."""
    return any(gather_object([stopped])) if accelerator.num_processes > 1 else stopped


def _validation(games: Sequence[Trajectory]) -> Metrics:
    return {f"validation/{name}": rate.value for name, rate in rates(games).items()}


def _summary(metrics: Metrics) -> dict[str, str]:
    return {name: f"{metrics[f'games/{name}']:.2f}" for name in ("r_c_first", "r_c", "ftr", "label_accuracy")}


def play_held_out(
    agents: Mapping[AgentID, Agent],
    judge: Judge,
    prompts: Sequence[Prompt],
    max_rounds: int,
    accelerator: Accelerator | None = None,
) -> list[Trajectory]:
    """Plays prompts that are not trained on; the agents' random state is put back, so that training is undisturbed."""
    states = [(agent, agent.state_dict()) for agent in agents.values() if isinstance(agent, Stateful)]
    mine = list(prompts)
    if accelerator is not None:
        mine = mine[accelerator.process_index :: accelerator.num_processes]
    games = play(mine, agents, judge=judge, rules=Rules(max_rounds=max_rounds))
    for agent, state in states:
        agent.load_state_dict(state)
    return gather_object(games) if accelerator is not None else games


def step_metrics(
    games: Sequence[Trajectory],
    weights: RewardWeights,
    updates: Mapping[AgentID, Metrics],
) -> Metrics:
    """What one step says: rates of its games, mean rewards by part, learners' metrics and speed."""
    scores = [score(game, weights) for game in games if game.judged]
    parts = {
        "reward/conversation": [r for s in scores for r in s.conversation],
        "reward/feedback": [r for s in scores for r in s.feedback],
        "reward/improvement": [r for s in scores for r in s.improvement],
        "reward/label": [r for s in scores for r in s.label],
        "reward/format": [r for s in scores for r in s.format],
    }
    metrics = {f"games/{name}": rate.value for name, rate in rates(games).items()}
    metrics |= {name: float(np.mean(values)) for name, values in parts.items() if values}
    for agent, update in updates.items():
        metrics |= {f"{agent}/{name}": value for name, value in update.items()}
        metrics[f"{agent}/update_tokens_per_second"] = update.get("tokens", 0.0) / update["update_seconds"]
    return metrics


@contextmanager
def stop_signal() -> Iterator[list[int]]:
    """A list that the first Ctrl-C or SIGTERM puts its number into; a second one interrupts at once."""
    caught: list[int] = []

    def first(number: int, _: Any) -> None:
        caught.append(number)
        for each, handler in previous.items():
            signal.signal(each, handler)
        tqdm.write("Stopping after this step; once more to stop at once, without a checkpoint.", file=sys.stderr)

    previous = {number: signal.signal(number, first) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
