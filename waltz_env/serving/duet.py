"""The pair in production: one callable that plays the game of training, without a judge."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Literal, Protocol, get_args, runtime_checkable

from waltz_env.checks import check_choice
from waltz_env.errors import AgentError, AgentFailure, UsageError
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
    """An agent that waits for a server. It is asked without blocking and does its own batching."""

    async def aact(self, observations: Sequence[Observation]) -> Sequence[Completion]:
        """``Agent.act`` as a coroutine."""
        ...


class Duet:
    """Answers chats with a conversation agent and a feedback agent.

    Each request is a ``Game``, exactly as in training: draft, feedback, and, if something is flagged, a revision.
    Concurrent requests to an agent in this process share batches (``Batcher``). Agents with ``aact`` are sent every
    request at once.

    A game can fail after the draft: the feedback agent fails, is too slow or ends the game with malformed feedback, or
    the revision fails. ``on_failure`` says what the user reads then:

    * ``"fail_open"``: the latest response, as in training after malformed feedback. If the feedback agent called that
      response unsafe, the user reads ``refusal`` instead.
    * ``"fail_closed"``: ``refusal``.

    The reply reports it (``failure``, ``refused``), and ``failures`` counts failures by agent and kind. Without a draft
    there is no answer: ``AgentError``.

    Args:
        agents: the pair, by role. In mode ``"off"`` only the conversation agent is needed.
        mode: ``"adaptive"`` plays by ``rules``, ``"always-on"`` revises after every well-formed critique, ``"off"``
            returns the draft.
        on_failure: see above.
        rules: the rules that the pair was trained with; the paper's game by default. ``mode`` changes one setting of
            them: ``always_revise`` in ``"always-on"``, ``max_rounds`` in ``"off"``.
        timeout: seconds per request. If there is a draft by then, the request is answered.
        feedback_timeout: seconds that one critique may take.
        refusal: what the user reads instead of a response that is held back.
        max_batch: largest number of requests that one agent in this process handles together.

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
        check_choice("mode", mode, get_args(Mode))
        check_choice("failure policy", on_failure, get_args(OnFailure))
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
        """Answers a chat that ends with a user's message. Threads that call at the same time share batches.

        Raises:
            UsageError: the chat cannot be answered, see ``chat_prompt``.
            AgentError: the conversation agent has no draft.
        """
        return self._loop.run(self.arespond(messages))

    def respond_batch(self, chats: Sequence[Sequence[Message]]) -> list[Reply]:
        """Answers several chats together; one reply per chat, in order.

        Raises:
            UsageError: a chat cannot be answered, see ``chat_prompt``.
            AgentError: some chats have no draft; the error carries the other replies.
        """
        return self._loop.run(self._respond_all(chats))

    async def arespond(self, messages: Sequence[Message]) -> Reply:
        """``respond`` without blocking, in any event loop. Cancelling it also cancels the requests to the agents."""
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
        """Plays one action; returns the failure if there was one."""
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
    """Returns the result of ``work``, or the exception that it raised, or a ``TimeoutError``."""
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
    """Describes an agent's error. The message of an unknown error may quote the chat, so only its type is named."""
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
