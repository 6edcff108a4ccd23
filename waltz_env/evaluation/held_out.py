"""Play on prompts that nobody trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from waltz_env.protocols import Agent, Judge, Stateful
from waltz_env.rollout import play
from waltz_env.rules import Rules
from waltz_env.types import AgentID, Prompt, Trajectory


class Processes(Protocol):
    """The processes of a run and which of them this is, such as ``accelerate.Accelerator``."""

    @property
    def process_index(self) -> int: ...

    @property
    def num_processes(self) -> int: ...


def play_held_out(
    prompts: Sequence[Prompt],
    agents: Mapping[AgentID, Agent],
    *,
    judge: Judge,
    rules: Rules = Rules(),
    accelerator: Processes | None = None,
    exclude_unreadable: bool = False,
) -> list[Trajectory]:
    """Play held-out prompts and put the agents' random states back, so that training is not disturbed.

    Args:
        prompts: one game each.
        agents: who plays.
        judge: labels every response.
        rules: rules of the games.
        accelerator: shares the games among its processes; all of them get all games, in an order of their own.
        exclude_unreadable: whether to leave out games that an agent's model cannot read, see ``play``.
    """
    states = [(agent, agent.state_dict()) for agent in agents.values() if isinstance(agent, Stateful)]
    share = share_of(prompts, accelerator)
    games = play(share, agents, judge=judge, rules=rules, exclude_unreadable=exclude_unreadable)
    for agent, state in states:
        agent.load_state_dict(state)
    return gathered(games, accelerator)


def share_of(prompts: Sequence[Prompt], accelerator: Processes | None) -> list[Prompt]:
    """The prompts that this process plays on."""
    if accelerator is None:
        return list(prompts)
    return list(prompts)[accelerator.process_index :: accelerator.num_processes]


def gathered(games: list[Trajectory], accelerator: Processes | None) -> list[Trajectory]:
    """The games of all processes, in an order of their own."""
    if accelerator is None:
        return games
    from accelerate.utils import gather_object

    everybodys: list[Trajectory] = gather_object(games)
    return everybodys
