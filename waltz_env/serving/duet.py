"""The trained pair in production: one callable over the same game as in training, with no judge."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from waltz_env.checks import check_choice, check_duration
from waltz_env.errors import AgentError, AgentFailure, UsageTypeError
from waltz_env.feedback import approval
from waltz_env.game import Game
from waltz_env.loop_thread import LoopThread
from waltz_env.protocols import Agent, SamplingAgent
from waltz_env.rules import Rules, check_agents
from waltz_env.sampling_options import SamplingOptions
from waltz_env.serving.batcher import CLOSED, Batcher
from waltz_env.serving.chat import chat_prompt
from waltz_env.serving.cutting import cut, estimate
from waltz_env.serving.reply import Failure, Latency, Reply
from waltz_env.serving.telling import Telling
from waltz_env.serving.turn import Turn
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Completion, Message, Observation, Usage

Mode = Literal["adaptive", "always-on", "off"]
OnFailure = Literal["fail_closed", "fail_open"]
REFUSAL = "I'm sorry, but I can't answer that right now."
NO_ANSWER: frozenset[AgentFailure] = frozenset({"overloaded", "too_long", "unreadable"})
"""Failures that clients can cause at will. No policy sends an unreviewed answer because of them."""


@runtime_checkable
class AsyncAgent(Protocol):
    """An agent that waits for a server: it is asked without blocking, and does its own batching."""

    async def aact(self, observations: Sequence[Observation]) -> Sequence[Completion]:
        """Do what ``Agent.act`` does, as a coroutine."""
        ...


@runtime_checkable
class AsyncSamplingAgent(AsyncAgent, Protocol):
    """An ``AsyncAgent`` that lets its caller decide how it samples, and tells when a request leaves its queue."""

    async def aact_with(
        self,
        observations: Sequence[Observation],
        options: Sequence[SamplingOptions],
        *,
        started: Callable[[], None],
    ) -> Sequence[Completion]:
        """Do what ``aact`` does, each completion sampled by its own options. Calls ``started`` from any thread."""
        ...


class Duet:
    """Answers chats with a conversation agent and a feedback agent.

    Each request is a ``Game``, exactly as in training: draft, feedback, and, if something is flagged, a revision.
    Requests to agents in this process are batched (``Batcher``); agents with ``aact`` are asked without a limit.
    Where the game ends if nothing is flagged, a ``TransformersAgent`` writes no further once both flags are false: that
    critique has no advice, and ends the game whatever its rest would have been.

    A draft, a critique and a revision each have a budget of time, which they spend only while they run. Waiting for a
    turn has its own budget, ``queue_timeout``; a request that exceeds it is overload, as is a server that refuses for
    too many requests. Overload and chats that do not fit a model's context are an ``AgentError``, whether there is a
    draft or not.

    If the game cannot go on for another reason (the feedback agent failed, was too slow or wrote something malformed,
    or the revision failed):

    * ``fail_closed`` returns ``refusal``.
    * ``fail_open`` returns the latest response, as in training after malformed feedback, with ``Reply.reviewed`` False
      unless the feedback agent approved of it. A response that the feedback agent called unsafe is never returned;
      ``refusal`` is.

    ``Reply.failure`` and ``Reply.refused`` tell; ``failures`` counts by agent and kind. If the draft itself fails, that
    is an ``AgentError``.

    ``SamplingOptions.on_text`` hears an answer while it is written, if the agent streams and no critique can follow: a
    revision in the last round, or, in mode ``"off"``, the draft. It never hears anything of a draft that the feedback
    agent reads. If such an answer breaks off, nothing can replace what was heard, so that is an ``AgentError`` under
    both policies.

    Args:
        agents: agents by role. In mode ``"off"`` the conversation agent is enough.
        mode: ``"adaptive"`` revises flagged responses, as trained. ``"always-on"`` revises always. ``"off"`` returns
            the draft.
        on_failure: what to return when the game cannot go on; see above.
        rules: rules that the pair was trained with; the paper's game by default. ``mode`` changes one setting of
            them: ``always_revise`` in ``"always-on"``, ``max_rounds`` in ``"off"``.
        timeout: seconds that a draft or a revision may run.
        feedback_timeout: seconds that a critique may run.
        queue_timeout: seconds that a request may wait for its turns, in total.
        refusal: text that replaces a response that is held back.
        max_batch: maximum number of requests per call of an agent in this process.

    Raises:
        UsageError: an agent is missing or unknown, or a setting is out of range.
    """

    def __init__(
        self,
        agents: Mapping[AgentID, Agent | AsyncAgent],
        *,
        mode: Mode = "adaptive",
        on_failure: OnFailure = "fail_closed",
        rules: Rules = Rules(),
        timeout: float = 60.0,
        feedback_timeout: float = 60.0,
        queue_timeout: float = 60.0,
        refusal: str = REFUSAL,
        max_batch: int = 32,
    ) -> None:
        check_choice("mode", mode, get_args(Mode))
        check_choice("failure policy", on_failure, get_args(OnFailure))
        check_duration("timeout", timeout)
        check_duration("feedback_timeout", feedback_timeout)
        check_duration("queue_timeout", queue_timeout)
        if not isinstance(refusal, str):
            raise UsageTypeError(f"refusal must be a string; got {refusal!r} ({type(refusal).__name__}).")
        self.mode = mode
        self.on_failure = on_failure
        self.rules = _in_mode(rules, mode)
        check_agents(agents, self.rules)
        self.timeout = timeout
        self.feedback_timeout = feedback_timeout
        self.queue_timeout = queue_timeout
        self.refusal = refusal
        self.failures: Counter[tuple[AgentID, AgentFailure]] = Counter()
        self._agents = dict(agents)
        self._feedback_options = SamplingOptions(
            complete=approval if _ends_if_nothing_is_flagged(self.rules) else None, series=FEEDBACK
        )
        blocking = {name: agent for name, agent in agents.items() if not isinstance(agent, AsyncAgent)}
        self._batcher = Batcher(blocking, max_batch=max_batch)

    @property
    def takes_options(self) -> bool:
        """Whether the conversation agent follows temperature, top_p and seed. The other options always apply."""
        return isinstance(self._agents[CONVERSATION], SamplingAgent | AsyncSamplingAgent)

    @property
    def longest(self) -> float:
        """The most seconds that a request may take."""
        rounds = self.rules.max_rounds
        return self.queue_timeout + (1 + rounds) * self.timeout + rounds * self.feedback_timeout

    def respond(self, messages: Sequence[Message], *, options: SamplingOptions = SamplingOptions()) -> Reply:
        """Answer a chat that ends with a user's message. Concurrent calls from several threads share batches.

        Args:
            messages: the chat, oldest message first.
            options: how drafts and revisions are sampled and where they end. The feedback agent sees them as they end.
                ``on_text`` hears the answer while it is written, see the class.

        Raises:
            UsageError: the chat cannot be answered, see ``chat_prompt``.
            AgentError: there is no draft, the pair is overloaded, or the chat is too long.
        """
        return self._loop.run(self.arespond(messages, options=options))

    def respond_batch(
        self, chats: Sequence[Sequence[Message]], *, options: SamplingOptions = SamplingOptions()
    ) -> list[Reply]:
        """Answer each chat, in order.

        Raises:
            UsageError: as in ``respond``.
            AgentError: as in ``respond``, for some of the chats; it carries the other replies (``partial``).
        """
        return self._loop.run(self._respond_all(chats, options))

    async def arespond(self, messages: Sequence[Message], *, options: SamplingOptions = SamplingOptions()) -> Reply:
        """Do the same as ``respond`` without blocking, in any event loop. Cancelling it drops its requests."""
        game = Game(chat_prompt(messages), self.rules)
        with closing(Telling(options, longest=self.rules.max_chars)) as telling:
            return await self._play(game, options, telling)

    def close(self, *, wait: bool = True) -> None:
        """End the threads. The agents stay open.

        Args:
            wait: wait for an agent in this process that is at work and cannot stop.
        """
        self._batcher.close(wait=wait)
        if "_loop" in self.__dict__:
            self._loop.close()

    @cached_property
    def _loop(self) -> LoopThread:
        return LoopThread()

    async def _respond_all(self, chats: Sequence[Sequence[Message]], options: SamplingOptions) -> list[Reply]:
        outcomes = await asyncio.gather(
            *(self.arespond(chat, options=options) for chat in chats), return_exceptions=True
        )
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        for error in errors:
            if not isinstance(error, AgentError):
                raise error
        replies = [outcome if isinstance(outcome, Reply) else None for outcome in outcomes]
        if errors:
            raise AgentError(
                f"{len(errors)} of {len(chats)} chats have no reply. The first: {errors[0]}", partial=replies
            )
        return [reply for reply in replies if reply is not None]

    async def _play(self, game: Game, options: SamplingOptions, telling: Telling) -> Reply:
        start = time.monotonic()
        spent = {"draft": 0.0, "feedback": 0.0, "revision": 0.0, "queue": 0.0}
        used: list[tuple[AgentID, Usage]] = []
        failure: Failure | None = None
        while game.turn is not None and failure is None:
            agent, phase = game.turn, _phase(game)
            turn = Turn(
                waiting=self.queue_timeout - spent["queue"],
                running=self.feedback_timeout if agent == FEEDBACK else self.timeout,
            )
            observation = game.observe(agent)
            heard = telling.on_text if _is_last(game) else None
            asked = self._feedback_options if agent == FEEDBACK else replace(options, on_text=heard)
            outcome = await _within(turn, self._ask(agent, observation, asked, turn=turn, since=start))
            spent[phase] += turn.seconds["running"]
            spent["queue"] += turn.seconds["waiting"]
            if isinstance(outcome, Completion):
                used.append((agent, outcome.tokens or estimate(observation, outcome)))
                game.act(cut(outcome, asked, count=not self.takes_options))
                failure = _malformed(game) or _contradiction(game, telling)
            else:
                failure = _failure(agent, outcome)
        if failure is not None:
            self.failures[failure.agent, failure.kind] += 1
        played = game.trajectory()
        if failure is not None and telling.told:
            raise AgentError(f"The answer broke off: {failure.reason}", kind=failure.kind)
        if failure is not None and (not played.responses or failure.kind in NO_ANSWER):
            missing = "answer" if played.responses else "draft"
            raise AgentError(f"There is no {missing}: {failure.reason}", kind=failure.kind)
        refused = failure is not None and (self.on_failure == "fail_closed" or _called_unsafe(game))
        usage = sum((each for _, each in used), Usage(0, 0))
        shown = 0 if refused else [each for agent, each in used if agent == CONVERSATION][-1].completion_tokens
        return Reply(
            self.refusal if refused else played.final.text,
            played,
            Latency(**spent, total=time.monotonic() - start),
            failure,
            refused,
            usage=usage,
            hidden_tokens=usage.completion_tokens - shown,
        )

    async def _ask(
        self, name: AgentID, observation: Observation, options: SamplingOptions, *, turn: Turn, since: float
    ) -> Completion:
        agent = self._agents[name]
        if isinstance(agent, AsyncSamplingAgent):
            (completion,) = await agent.aact_with([observation], [options], started=turn.starts)
            return completion
        if isinstance(agent, AsyncAgent):
            turn.starts()
            (completion,) = await agent.aact([observation])
            return completion
        return await self._batcher.ask(name, observation, options=options, since=since, turn=turn)


async def _within(turn: Turn, work: Awaitable[Completion]) -> Completion | BaseException:
    """What the work returns or raises, or the error that its time is over. An agent's exception is only its failure."""
    task = asyncio.ensure_future(work)
    ends: set[asyncio.Future[Any]] = {task, turn.expired}
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if task.cancelled():
            return AgentError(CLOSED)
        if task.done():
            return task.exception() or task.result()
        if turn.expired.result() == "waiting":
            return AgentError("The request waited too long for its turn.", kind="overloaded")
        return AgentError("The completion took too long.", kind="timeout")
    finally:
        task.cancel()
        turn.close()


def _ends_if_nothing_is_flagged(rules: Rules) -> bool:
    """Whether a game is over once both flags are false, whatever the rest of the critique will be."""
    return not rules.always_revise and type(rules).asks_revision is Rules.asks_revision


def _is_last(game: Game) -> bool:
    """Whether no critique can follow the next response, and no malformed one came before."""
    played = game.trajectory()
    if len(played.critiques) < game.rules.max_rounds:
        return False
    return not played.critiques or played.critiques[-1].feedback.well_formed


def _contradiction(game: Game, telling: Telling) -> Failure | None:
    """The failure of an agent whose response does not begin with what it told of it."""
    if game.trajectory().final.text.startswith(telling.told):
        return None
    return Failure(CONVERSATION, "error", "The response does not begin with what was told of it.")


def _malformed(game: Game) -> Failure | None:
    """The failure of a critique that is malformed and ended the game."""
    played = game.trajectory()
    if game.turn is not None or len(played.critiques) < len(played.responses):
        return None
    if played.critiques[-1].feedback.well_formed:
        return None
    return Failure(FEEDBACK, "malformed", "The feedback is not the JSON object that it should be.")


def _failure(agent: AgentID, error: BaseException) -> Failure:
    """A foreign error's message may quote what was said, so only its type is told."""
    if isinstance(error, AgentError):
        return Failure(agent, error.kind, str(error))
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
