"""The trained pair in use: one callable over the same game as in training, with no judge."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Literal, Protocol, get_args, runtime_checkable

from waltz_env.errors import AgentError, AgentFailure, UsageError, unknown_name
from waltz_env.game import Game
from waltz_env.loop_thread import LoopThread
from waltz_env.protocols import Agent
from waltz_env.rules import Rules, check_agents
from waltz_env.serving.batcher import Batcher
from waltz_env.serving.chat import chat_prompt
from waltz_env.serving.reply import Failure, Latency, Reply
from waltz_env.types import FEEDBACK, AgentID, Completion, Message, Observation

Mode = Literal["adaptive", "always-on", "off"]
OnFailure = Literal["fail_open", "fail_closed"]
REFUSAL = "I'm sorry, but I can't answer that right now."

Ask = Callable[[Observation], Awaitable[Completion]]


@runtime_checkable
class AsyncAgent(Protocol):
    """An agent that waits for a server: it is asked without blocking, and does its own batching."""

    async def aact(self, observations: Sequence[Observation]) -> Sequence[Completion]:
        """``Agent.act`` as a coroutine."""
        ...


class Duet:
    """Answers chats with a conversation agent and a feedback agent.

    Each request is a ``Game``, exactly as in training: draft, feedback, and, if something is flagged, a revision.
    Agents in this process are asked in batches that form by themselves (``Batcher``); agents with ``aact`` are asked as
    many at a time as come.

    What happens when there is a draft and the game cannot go on, because the feedback agent failed, was too slow or
    said something malformed, or because the revision failed:

    * ``fail_open``: the latest response is returned, as it is in training after malformed feedback. One that the
      feedback agent called unsafe is never returned; ``refusal`` is.
    * ``fail_closed``: ``refusal`` is returned.

    The reply tells (``failure``, ``refused``), and ``failures`` counts by agent and kind. Without a draft there is
    nothing to answer with: that is an ``AgentError``.

    Args:
        agents: the pair, by role. In mode ``"off"`` the conversation agent is enough.
        mode: ``"adaptive"``: revise what is flagged, as trained. ``"always-on"``: always revise. ``"off"``: the draft.
        on_failure: see above.
        rules: the rules that the pair was trained with; the paper's game by default. ``mode`` changes one setting of
            them: ``always_revise`` in ``"always-on"``, ``max_rounds`` in ``"off"``.
        timeout: seconds for one request. With a draft in hand it is answered by then.
        feedback_timeout: seconds that one feedback may take.
        refusal: what the user reads instead of a response that is held back.
        max_batch: requests to one agent in this process that run together, at most.

    Raises:
        UsageError: an agent is missing or unknown, or a setting is out of range.
    """

    def __init__(
        self,
        agents: Mapping[AgentID, Agent | AsyncAgent],
        *,
        mode: Mode = "adaptive",
        on_failure: OnFailure = "fail_open",
        rules: Rules = Rules(),
        timeout: float = 60.0,
        feedback_timeout: float = 20.0,
        refusal: str = REFUSAL,
        max_batch: int = 32,
    ) -> None:
        if mode not in get_args(Mode):
            raise unknown_name("mode", mode, get_args(Mode))
        if on_failure not in get_args(OnFailure):
            raise unknown_name("failure policy", on_failure, get_args(OnFailure))
        if min(timeout, feedback_timeout) <= 0:
            raise UsageError(f"Times must be above 0; got timeout={timeout}, feedback_timeout={feedback_timeout}.")
        self.mode = mode
        self.on_failure = on_failure
        self.rules = _in_mode(rules, mode)
        check_agents(agents, self.rules)
        self.timeout = timeout
        self.feedback_timeout = feedback_timeout
        self.refusal = refusal
        self.failures: Counter[tuple[AgentID, AgentFailure]] = Counter()
        blocking = {name: agent for name, agent in agents.items() if not isinstance(agent, AsyncAgent)}
        self._batcher = Batcher(blocking, max_batch=max_batch)
        self._ask: dict[AgentID, Ask] = {
            name: partial(_ask_server, agent) if isinstance(agent, AsyncAgent) else partial(self._batcher.ask, name)
            for name, agent in agents.items()
        }

    def respond(self, messages: Sequence[Message]) -> Reply:
        """The answer to a chat that ends with a user's message. Threads that call at once share batches.

        Raises:
            UsageError: no chat that can be answered, see ``chat_prompt``.
            AgentError: the conversation agent has no draft.
        """
        return self._loop.run(self.arespond(messages))

    def respond_batch(self, chats: Sequence[Sequence[Message]]) -> list[Reply]:
        """An answer to each chat, in order.

        Raises:
            UsageError: as ``respond``.
            AgentError: some have no draft; it carries the replies that there are.
        """
        return self._loop.run(self._respond_all(chats))

    async def arespond(self, messages: Sequence[Message]) -> Reply:
        """``respond`` without blocking, in any event loop. Cancelling it drops what it waits for."""
        return await self._play(Game(chat_prompt(messages), self.rules))

    def close(self) -> None:
        """Ends the threads. Agents are the caller's to close."""
        self._batcher.close()
        if "_loop" in self.__dict__:
            self._loop.close()

    @cached_property
    def _loop(self) -> LoopThread:
        return LoopThread()

    async def _respond_all(self, chats: Sequence[Sequence[Message]]) -> list[Reply]:
        outcomes = await asyncio.gather(*map(self.arespond, chats), return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        for error in errors:
            if not isinstance(error, AgentError):
                raise error
        replies = [outcome if isinstance(outcome, Reply) else None for outcome in outcomes]
        if errors:
            raise AgentError(
                f"{len(errors)} of {len(chats)} chats have no draft. The first: {errors[0]}", partial=replies
            )
        return [reply for reply in replies if reply is not None]

    async def _play(self, game: Game) -> Reply:
        start = time.perf_counter()
        spent = {"draft": 0.0, "feedback": 0.0, "revision": 0.0}
        failure = None
        while game.turn is not None and failure is None:
            phase_start = time.perf_counter()
            phase = _phase(game)
            failure = await self._move(game, self.timeout - (phase_start - start))
            spent[phase] += time.perf_counter() - phase_start
        if failure is not None:
            self.failures[failure.agent, failure.kind] += 1
        played = game.trajectory()
        if not played.responses:
            assert failure is not None  # a game without a response has not ended
            raise AgentError(f"There is no draft: {failure.reason}", kind=failure.kind)
        refused = failure is not None and (self.on_failure == "fail_closed" or _called_unsafe(game))
        text = self.refusal if refused else played.final.text
        return Reply(text, played, Latency(**spent, total=time.perf_counter() - start), failure, refused)

    async def _move(self, game: Game, remaining: float) -> Failure | None:
        """One action, or what kept the agent from it."""
        agent = game.turn
        assert agent is not None
        limit = min(self.feedback_timeout, remaining) if agent == FEEDBACK else remaining
        outcome = await _within(limit, self._ask[agent](game.observe(agent)))
        if not isinstance(outcome, Completion):
            return _failure(agent, outcome)
        game.act(outcome)
        if agent == FEEDBACK and game.turn is None and not game.trajectory().critiques[-1].feedback.well_formed:
            return Failure(agent, "malformed", "The feedback is not the JSON object that it should be.")
        return None


async def _ask_server(agent: AsyncAgent, observation: Observation) -> Completion:
    (completion,) = await agent.aact([observation])
    return completion


async def _within(seconds: float, work: Awaitable[Completion]) -> Completion | BaseException:
    """What the work gives or raises, or ``TimeoutError``. Whatever an agent raises is its failure, and no more."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=max(seconds, 0))
        if not task.done():
            return TimeoutError(f"No completion within {seconds:.3g} s.")
        if task.cancelled():
            return AgentError("The agent was closed while it was asked.")
        return task.exception() or task.result()
    finally:
        task.cancel()


def _failure(agent: AgentID, error: BaseException) -> Failure:
    """A foreign error's message may quote what was said, so its type stands for it."""
    if isinstance(error, AgentError):
        return Failure(agent, error.kind, str(error))
    if isinstance(error, TimeoutError):
        return Failure(agent, "timeout", str(error))
    return Failure(agent, "error", f"The agent raised {type(error).__name__}.")


def _phase(game: Game) -> str:
    if game.turn == FEEDBACK:
        return "feedback"
    return "revision" if game.trajectory().responses else "draft"


def _called_unsafe(game: Game) -> bool:
    """Whether the feedback agent called the latest response unsafe."""
    played = game.trajectory()
    if len(played.critiques) < len(played.responses):
        return False
    labels = played.critiques[-1].feedback.labels
    return labels is not None and labels.unsafe


def _in_mode(rules: Rules, mode: Mode) -> Rules:
    """The rules that are played in ``mode``."""
    if mode == "always-on":
        return replace(rules, always_revise=True)
    if mode == "off":
        return replace(rules, max_rounds=0)
    return rules
