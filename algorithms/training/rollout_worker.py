"""The worker that plays the games of each training step, in the step itself or during the update before it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import NamedTuple, Protocol, runtime_checkable

from waltz_env.algorithms.protocols import Metrics
from waltz_env.branches import ALONE, Branches
from waltz_env.errors import UsageError
from waltz_env.protocols import Agent, Judge
from waltz_env.records import decode_game, encode_game
from waltz_env.rollout import play
from waltz_env.rules import Rules
from waltz_env.types import AgentID, Completion, Observation, Prompt, Trajectory


@runtime_checkable
class Detachable(Protocol):
    """An agent whose engine has weights of its own, so that it can act while its policy is being updated."""

    def detach(self) -> Agent:
        """An agent that acts with the current weights until the next call, and draws from this agent's random stream.

        Raises:
            UsageError: the engine cannot keep the weights that long.
        """
        ...


class Played(NamedTuple):
    """Games, and for each agent ``act_seconds`` and ``act_tokens_per_second``."""

    games: list[Trajectory]
    speed: Metrics


class RolloutWorker:
    """Plays the games of one step after another.

    With ``ahead`` the games of the next step start in a thread before the current step learns. The weights that sample
    them are then one update older than the weights that learn from them; the samples' ``version`` says so.

    Args:
        agents: who plays.
        judge: labels every response.
        branches: see ``play``.
        process: which process of how many this is. Drafts are counted over all of them, as they were dealt out.
        overlap_judge: see ``play``.
        ahead: whether to play one step ahead of the learners.
        exclude_unreadable: see ``play``.

    Raises:
        UsageError: ``ahead`` with an agent that is not ``Detachable``.
    """

    def __init__(
        self,
        agents: Mapping[AgentID, Agent],
        judge: Judge,
        *,
        branches: Branches = ALONE,
        process: tuple[int, int] = (0, 1),
        overlap_judge: bool = False,
        ahead: bool = False,
        exclude_unreadable: bool = False,
    ) -> None:
        tied = [name for name, agent in agents.items() if ahead and not isinstance(agent, Detachable)]
        if tied:
            raise UsageError(
                f"max_staleness=1 plays during the update, and {', '.join(tied)} "
                f"({type(agents[tied[0]]).__name__}) cannot: it acts with the very weights that are updated. Use "
                "agents whose engine has its own copy of the weights, such as VLLMAgent, or max_staleness=0."
            )
        self._agents = agents
        self._judge = judge
        self._branches = branches
        self._process = process
        self._overlap_judge = overlap_judge
        self._exclude_unreadable = exclude_unreadable
        self._is_ahead = ahead
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="waltz-rollout")
        self._next: Future[Played] | None = None

    def step(self, draw: Callable[[], Sequence[Prompt]], *, rules: Rules, last: bool) -> Played:
        """The games of this step.

        Args:
            draw: returns the prompts of the next games that have not been played yet.
            rules: rules of the games.
            last: whether this is the last step of a stage; nothing is then played ahead.
        """
        played = self._next.result() if self._next else self._play(self._agents, draw(), rules)
        self._next = None
        if self._is_ahead and not last:
            detached = {name: agent.detach() for name, agent in self._agents.items() if isinstance(agent, Detachable)}
            self._next = self._thread.submit(self._play, detached, draw(), rules)
        return played

    def wait(self) -> None:
        """Wait until nothing is being played."""
        if self._next is not None:
            self._next.result()

    def played_ahead(self) -> list[str] | None:
        """Wait for the games of the next step and return them as lines of JSON; None if none have begun."""
        if self._next is None:
            return None
        return [encode_game(game) for game in self._next.result().games]

    def put_back(self, lines: Sequence[str] | None) -> None:
        """Use what ``played_ahead`` returned as the games of the next step."""
        self._next = None
        if lines is not None:
            self._next = Future()
            self._next.set_result(Played([decode_game(line) for line in lines], {}))

    def __enter__(self) -> RolloutWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _play(self, agents: Mapping[AgentID, Agent], prompts: Sequence[Prompt], rules: Rules) -> Played:
        clocked = {name: _Clocked(agent) for name, agent in agents.items()}
        games = play(
            prompts,
            clocked,
            judge=self._judge,
            rules=rules,
            branches=self._branches,
            overlap_judge=self._overlap_judge,
            exclude_unreadable=self._exclude_unreadable,
        )
        speed = {f"{name}/{key}": value for name, clock in clocked.items() for key, value in clock.read().items()}
        return Played([self._numbered(game) for game in games], speed)

    def _numbered(self, game: Trajectory) -> Trajectory:
        if not game.branch:
            return game
        (index, processes), (draft, *rest) = self._process, game.branch
        return replace(game, branch=(draft * processes + index, *rest))


class _Clocked:
    """An agent with a clock around ``act``."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._seconds = 0.0
        self._tokens = 0

    def act(self, observations: Sequence[Observation]) -> Sequence[Completion]:
        start = time.perf_counter()
        completions = self._agent.act(observations)
        self._seconds += time.perf_counter() - start
        self._tokens += sum(len(completion.token_ids or ()) for completion in completions)
        return completions

    def read(self) -> Metrics:
        """Seconds, and sampled tokens per second; empty if the agent did not act."""
        if self._seconds == 0.0:
            return {}
        return {"act_seconds": self._seconds, "act_tokens_per_second": self._tokens / self._seconds}
