"""Everything that an exact continuation of training needs, to and from a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from waltz_env.algorithms.protocols import Learner, Policy, Stateful
from waltz_env.algorithms.training import checkpoint
from waltz_env.algorithms.training.rollout_worker import RolloutWorker
from waltz_env.errors import CheckpointError
from waltz_env.prompts import PromptCursor
from waltz_env.protocols import Agent
from waltz_env.types import AgentID

Tensors = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        stage: index of the stage.
        step_in_stage: steps done in it.
        step: steps done in all stages.
    """

    stage: int = 0
    step_in_stage: int = 0
    step: int = 0


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a run that change with training."""

    policies: Mapping[AgentID, Policy]
    learners: Mapping[AgentID, Learner]
    agents: Mapping[AgentID, Agent]
    rng: np.random.Generator
    cursor: PromptCursor
    worker: RolloutWorker


@dataclass(frozen=True, slots=True)
class SavedState:
    """A checkpoint as read; ``restore`` puts it into a run's parts."""

    progress: Progress
    tensors: Tensors = field(repr=False)
    meta: Mapping[str, Any] = field(repr=False)

    def restore(self, parts: Parts, process: int) -> None:
        """Puts weights, optimisers, cursor and every random state back, bit for bit."""
        for name, policy in parts.policies.items():
            policy.load_state_dict(self.tensors[f"policy/{name}"])
            policy.version = self.meta["versions"][name]
        for name, learner in parts.learners.items():
            learner.load_state_dict(self.tensors[f"learner/{name}"])
        for name, agent in parts.agents.items():
            if isinstance(agent, Stateful):
                agent.load_state_dict(self.tensors[f"agent/{name}/{process}"])
        parts.rng.bit_generator.state = self.meta["rng"][process]
        parts.cursor.load_state_dict(self.meta["cursor"])
        parts.worker.put_back(self.meta["played_ahead"][process])


def save(
    folder: Path, progress: Progress, parts: Parts, recipe: Mapping[str, Any], *, accelerator: Accelerator, keep: int
) -> None:
    """Writes a checkpoint of ``parts`` to ``folder/checkpoints``; the random states of every process are in it."""
    ahead = parts.worker.played_ahead()  # first, as it waits until no random state is in use
    states = {name: agent.state_dict() for name, agent in parts.agents.items() if isinstance(agent, Stateful)}
    processes = gather_object([(states, parts.rng.bit_generator.state, ahead)])
    if accelerator.is_main_process:
        tensors: dict[str, Mapping[str, Tensor]] = {}
        tensors |= {f"policy/{name}": policy.state_dict() for name, policy in parts.policies.items()}
        tensors |= {f"learner/{name}": learner.state_dict() for name, learner in parts.learners.items()}
        for process, (agents, _, _) in enumerate(processes):
            tensors |= {f"agent/{name}/{process}": state for name, state in agents.items()}
        meta = {
            "progress": asdict(progress),
            "recipe": recipe,
            "versions": {name: policy.version for name, policy in parts.policies.items()},
            "rng": [rng for _, rng, _ in processes],
            "played_ahead": [games for _, _, games in processes],
            "cursor": parts.cursor.state_dict(),
        }
        checkpoint.save(folder / "checkpoints" / f"step-{progress.step:05d}", tensors, meta, keep=keep)
    accelerator.wait_for_everyone()


def load(folder: Path, recipe: Mapping[str, Any]) -> SavedState:
    """The newest checkpoint of the run in ``folder``.

    Raises:
        CheckpointError: there is none, or it was made by another recipe.
    """
    newest = checkpoint.latest(folder / "checkpoints")
    if newest is None:
        raise CheckpointError(f"No checkpoint to resume from in {folder / 'checkpoints'}. Start without resuming.")
    tensors, meta = checkpoint.load(newest)
    differing = sorted(
        name for name in recipe.keys() | meta["recipe"].keys() if recipe.get(name) != meta["recipe"].get(name)
    )
    if differing:
        there, now = ([each.get(name) for name in differing] for each in (meta["recipe"], recipe))
        raise CheckpointError(
            f"{newest} was made with other settings of {', '.join(differing)}: there {there}, now {now}. "
            "Resume with the settings of the run, or start a new one in another folder."
        )
    return SavedState(Progress(**meta["progress"]), tensors, meta)


def describe(**settings: Any) -> dict[str, Any]:
    """Settings as plain JSON values, for comparison and for ``config.json``."""
    return json.loads(json.dumps(settings, default=_plain))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__} | {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    return str(value)
