"""The complete state of a training run, to and from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from waltz_env.algorithms.protocols import Learner
from waltz_env.algorithms.training import checkpoint
from waltz_env.algorithms.training.learners import policies_of
from waltz_env.algorithms.training.rollout_worker import RolloutWorker
from waltz_env.errors import CheckpointError
from waltz_env.prompts import PromptCursor
from waltz_env.protocols import Agent, Stateful
from waltz_env.run_folder import renamed
from waltz_env.types import AgentID

Tensors = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run has come.

    Attributes:
        stage: index of the stage.
        step_in_stage: steps of the stage that are done.
        step: steps of all stages that are done.
    """

    stage: int = 0
    step_in_stage: int = 0
    step: int = 0


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a run that change during training, and the references that its stage began with."""

    agents: Mapping[AgentID, Agent]
    learners: Mapping[AgentID, Learner]
    references: Tensors
    rng: np.random.Generator
    cursor: PromptCursor
    worker: RolloutWorker


@dataclass(frozen=True, slots=True)
class SavedState:
    """A checkpoint as read; ``restore`` puts it into a run's parts."""

    position: Position
    tensors: Tensors = field(repr=False)
    meta: Mapping[str, Any] = field(repr=False)

    @property
    def references(self) -> Tensors:
        """The references that the stage began with, by agent."""
        prefix = "reference/"
        return {key.removeprefix(prefix): state for key, state in self.tensors.items() if key.startswith(prefix)}

    def restore(self, parts: Parts, accelerator: Accelerator) -> None:
        """Put weights, optimizers, cursor and every random state back: bit for bit on the same number of processes.

        A process that the checkpoint does not know begins with the random states that it has. Games that were played
        ahead are dealt out again.
        """
        process = accelerator.process_index
        for name, policy in policies_of(parts.agents).items():
            policy.load_state_dict(self.tensors[f"policy/{name}"])
            policy.version = self.meta["versions"][name]
        for name, learner in parts.learners.items():
            learner.load_state_dict(self.tensors[f"learner/{name}"])
        if process < len(self.meta["rng"]):
            for name, agent in parts.agents.items():
                if isinstance(agent, Stateful):
                    agent.load_state_dict(self.tensors[f"agent/{name}/{process}"])
            parts.rng.bit_generator.state = self.meta["rng"][process]
        parts.cursor.load_state_dict(self.meta["cursor"])
        ahead, count = self.meta["played_ahead"], accelerator.num_processes
        if len(ahead) != count and ahead[0] is not None:  # whole shares, so that trees of games stay together
            ahead = [list(chain.from_iterable(ahead[first::count])) for first in range(count)]
        parts.worker.put_back(ahead[process] if process < len(ahead) else None)


def save(
    folder: Path,
    position: Position,
    parts: Parts,
    *,
    settings: Mapping[str, Any],
    accelerator: Accelerator,
    keep: int,
) -> None:
    """Write a checkpoint of ``parts`` to ``folder``, with the random states of every process.

    Args:
        folder: the folder of all checkpoints of the run.
        position: how far the run has come.
        parts: what changes during training.
        settings: settings of the run as JSON values, compared when it is resumed.
        accelerator: all processes take part; the main one writes.
        keep: number of checkpoints to keep.
    """
    ahead = parts.worker.played_ahead()  # first, as it waits until no random state is in use
    states = {name: agent.state_dict() for name, agent in parts.agents.items() if isinstance(agent, Stateful)}
    processes = gather_object([(states, parts.rng.bit_generator.state, ahead)])
    policies = policies_of(parts.agents)
    tensors: dict[str, Mapping[str, Tensor]] = {}
    tensors |= {f"policy/{name}": policy.state_dict() for name, policy in policies.items()}
    tensors |= {f"reference/{name}": state for name, state in parts.references.items()}
    tensors |= {f"learner/{name}": learner.state_dict() for name, learner in parts.learners.items()}
    for process, (agents, _, _) in enumerate(processes):
        tensors |= {f"agent/{name}/{process}": state for name, state in agents.items()}
    meta = {
        "position": asdict(position),
        "settings": settings,
        "versions": {name: policy.version for name, policy in policies.items()},
        "rng": [rng for _, rng, _ in processes],
        "played_ahead": [games for _, _, games in processes],
        "cursor": parts.cursor.state_dict(),
    }
    path = folder / f"step-{position.step:05d}"
    checkpoint.save(path, tensors, meta, keep=keep, write=accelerator.is_main_process)
    accelerator.wait_for_everyone()


def load(folder: Path, settings: Mapping[str, Any]) -> SavedState:
    """The newest checkpoint in ``folder``.

    Args:
        folder: the folder of all checkpoints of the run.
        settings: settings of the run as JSON values, which must be those of the checkpoint except for the number of
            ``processes``.

    Raises:
        CheckpointError: there is no checkpoint, or other settings made it.
    """
    newest = checkpoint.latest(folder)
    if newest is None:
        raise CheckpointError(f"No checkpoint to resume from in {folder}. Start without resuming.")
    tensors, meta = checkpoint.load(newest)
    made_with = renamed(meta["settings"])
    compared = (settings.keys() | made_with.keys()) - {"processes"}
    differing = sorted(name for name in compared if settings.get(name) != made_with.get(name))
    if differing:
        there, now = ([values.get(name) for name in differing] for values in (made_with, settings))
        raise CheckpointError(
            f"{newest} was made with other settings of {', '.join(differing)}: there {there}, now {now}. "
            "Resume with the settings of the run, or start a new one in another folder."
        )
    return SavedState(Position(**meta["position"]), tensors, meta)
