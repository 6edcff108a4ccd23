"""Watching long work from outside: agents and judges that count what they answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from waltz_env.errors import UnreadablePromptError
from waltz_env.judging import consult
from waltz_env.protocols import Agent, Judge, Reader, Stateful
from waltz_env.types import AgentID, Completion, Judgement, NoVerdict, Observation, Prompt

AT_ONCE = 128  # completions or verdicts between two reports


@dataclass(frozen=True, slots=True)
class Done:
    """What has been done.

    Attributes:
        now: what is being done.
        parts: number of parts that are done.
        of: number of all parts.
        turns: number of completions in the part that is being done.
        verdicts: number of verdicts in it.
    """

    now: str = ""
    parts: int = 0
    of: int = 0
    turns: int = 0
    verdicts: int = 0


Progress = Callable[[Done], object]


def quiet(done: Done) -> None:
    """A ``Progress`` that shows nothing."""


class Watch:
    """Reports the progress of work that is made of parts.

    Args:
        of: number of parts.
        progress: told after every change.
    """

    def __init__(self, of: int, progress: Progress) -> None:
        self._done = Done(of=of)
        self._progress = progress

    def begin(self, now: str) -> None:
        """A part begins."""
        self._tell(now=now, turns=0, verdicts=0)

    def end(self) -> None:
        """The part is done."""
        self._tell(parts=self._done.parts + 1)

    def count(self, turns: int = 0, verdicts: int = 0) -> None:
        """Agents or judges have answered."""
        self._tell(turns=self._done.turns + turns, verdicts=self._done.verdicts + verdicts)

    def agents(self, agents: Mapping[AgentID, Agent]) -> dict[AgentID, Agent]:
        """The same agents, watched."""
        return {name: WatchedAgent(agent, self) for name, agent in agents.items()}

    def judge(self, judge: Judge) -> Judge:
        """The same judge, watched."""
        return WatchedJudge(judge, self)

    def _tell(self, **changes: Any) -> None:
        self._done = replace(self._done, **changes)
        self._progress(self._done)


@dataclass(frozen=True, slots=True)
class WatchedAgent:
    """An agent that is asked in slices. It draws the same random numbers as in one call."""

    inner: Agent
    watch: Watch = field(repr=False)

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        """Completions of the inner agent."""
        if isinstance(self.inner, Reader):  # all that cannot be read are told at once, before any slice is played
            self.inner.check_readable(observations)
        completions: list[Completion] = []
        for start in range(0, len(observations), AT_ONCE):
            try:
                completions += self.inner.act(observations[start : start + AT_ONCE])
            except UnreadablePromptError as error:  # its rows count from the start of the slice
                rows = [start + row for row in error.rows]
                raise UnreadablePromptError(str(error), kind=error.kind, rows=rows) from error
            self.watch.count(turns=len(completions) - start)
        return completions

    def state_dict(self) -> Mapping[str, Any]:
        """The inner agent's random state, if it has one."""
        return self.inner.state_dict() if isinstance(self.inner, Stateful) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        if isinstance(self.inner, Stateful):
            self.inner.load_state_dict(state)


@dataclass(frozen=True, slots=True)
class WatchedJudge:
    """A judge that is asked in slices; judges look at each response by itself."""

    inner: Judge
    watch: Watch = field(repr=False)

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement | NoVerdict]:
        """Outcomes of the inner judge."""
        outcomes: list[Judgement | NoVerdict] = []
        for start in range(0, len(responses), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            outcomes += consult(self.inner, prompts[part], responses[part])
            self.watch.count(verdicts=len(outcomes) - start)
        return outcomes
