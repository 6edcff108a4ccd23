"""Dynamic batching for agents in this process: requests that arrive during one batch form the next."""

from __future__ import annotations

import asyncio
import threading
import time
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from waltz_env.checks import check_integer
from waltz_env.errors import AgentError, UnreadablePromptError
from waltz_env.per_process import PerProcess
from waltz_env.plain import one_each
from waltz_env.protocols import Agent, SamplingAgent
from waltz_env.sampling_options import SamplingOptions
from waltz_env.serving.turn import Turn
from waltz_env.types import AgentID, Completion, Observation

WINDOW = 0.002
CLOSED = "The agent was closed, so it cannot be asked."


@dataclass(frozen=True, slots=True)
class _Request:
    agent: AgentID
    observation: Observation
    options: SamplingOptions
    since: float
    turn: Turn | None
    alone: bool = False
    taken: bool = False
    answer: Future[Completion] = field(default_factory=Future)
    left: threading.Event = field(default_factory=threading.Event)  # a running future cannot be cancelled


class _Queue:
    """Requests that wait, oldest first, and the one thread that runs them. ``lock`` guards the other fields."""

    def __init__(self) -> None:
        self.waiting: list[_Request] = []
        self.running = False
        self.closed = False
        self.latest_single: float | None = None  # the age of the request that was the latest batch by itself
        self.lock = threading.Lock()
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="waltz-batcher")

    def add(self, requests: Iterable[_Request]) -> None:
        for request in requests:
            insort(self.waiting, request, key=lambda each: each.since)


class Batcher:
    """Lets any number of coroutines, in any event loops, ask agents whose ``act`` blocks.

    A single thread runs one batched call at a time, for all agents: two adapters on one base must never run
    concurrently. The oldest request decides which agent is next; other requests to that agent join its batch. If a
    batch fails, each of its requests is retried alone, so that a bad request fails only itself. If the error tells
    which requests failed (``partial``, ``rows``), only those fail, and the rest is retried together. A running call is
    stopped between tokens once nobody waits for any of its answers, if the agent can (``SamplingAgent``); one that
    hangs blocks all requests after it.

    Args:
        agents: agents by name.
        max_batch: maximum number of requests per call.
        window: seconds that a batch waits for more requests before it runs. The next turn of a game whose last turn
            had a batch to itself does not wait.

    Raises:
        UsageError: ``max_batch`` is below 1.
    """

    def __init__(self, agents: Mapping[AgentID, Agent], *, max_batch: int = 32, window: float = WINDOW) -> None:
        check_integer("max_batch", max_batch, at_least=1)
        self.agents = agents
        self.max_batch = max_batch
        self.window = window
        self._queue = PerProcess(_Queue)

    async def ask(
        self,
        agent: AgentID,
        observation: Observation,
        *,
        options: SamplingOptions = SamplingOptions(),
        since: float | None = None,
        turn: Turn | None = None,
    ) -> Completion:
        """Return the agent's completion, or raise what it raised. Cancelling gives the request up.

        Args:
            agent: name of the agent.
            observation: what it is asked.
            options: how the completion is sampled, for a ``SamplingAgent``; others ignore it.
            since: age of the request, as a ``time.monotonic``; None: now. Older requests run first.
            turn: told when the request runs and when it waits.
        """
        request = _Request(agent, observation, options, time.monotonic() if since is None else since, turn)
        queue = self._queue()
        with queue.lock:
            if queue.closed:
                raise AgentError(CLOSED)
            queue.add([request])
            self._start(queue)
        try:
            return await asyncio.wrap_future(request.answer)
        finally:
            request.left.set()

    def close(self, *, wait: bool = True) -> None:
        """Stop the current batch, cancel the requests that wait, and end the thread.

        Args:
            wait: return once the thread has ended, which takes as long as the batch if its agent cannot stop.
        """
        queue = self._queue()
        with queue.lock:
            queue.closed = True
            for request in queue.waiting:
                if not request.answer.cancel():  # it has run once, in a batch that failed
                    request.answer.set_exception(AgentError(CLOSED))
            queue.waiting.clear()
        queue.thread.shutdown(wait=wait)

    def _start(self, queue: _Queue) -> None:
        """Run a batch if requests are waiting and none is running. The caller holds the lock."""
        if queue.waiting and not queue.running:
            queue.running = True
            batch: list[_Request] = []
            queue.thread.submit(self._act, queue, batch).add_done_callback(partial(self._finish, queue, batch))

    def _act(self, queue: _Queue, batch: list[_Request]) -> Sequence[Completion]:
        """Fill ``batch`` with the requests that have arrived by now, and ask their agent."""
        with queue.lock:
            goes_on = [request.since for request in queue.waiting] == [queue.latest_single]
        if not goes_on:
            time.sleep(self.window)
        with queue.lock:
            batch += self._take(queue)
            queue.latest_single = batch[0].since if len(batch) == 1 else None
        if not batch:
            return ()
        for request in batch:
            if request.turn is not None:
                request.turn.starts()
        name = batch[0].agent
        agent, observations = self.agents[name], [request.observation for request in batch]
        if isinstance(agent, SamplingAgent):
            completions = agent.act_with(
                observations,
                [request.options for request in batch],
                should_stop=lambda: queue.closed or all(request.left.is_set() for request in batch),
            )
        else:
            completions = agent.act(observations)
        return one_each(name, completions, len(batch))

    def _take(self, queue: _Queue) -> list[_Request]:
        """Take the oldest request that was not cancelled, and others to the same agent. The caller holds the lock."""
        batch: list[_Request] = []
        left: list[_Request] = []
        for request in queue.waiting:
            full = len(batch) == self.max_batch or (batch and (batch[0].alone or request.alone))
            if full or (batch and request.agent != batch[0].agent):
                left.append(request)
            elif request.taken or request.answer.set_running_or_notify_cancel():
                batch.append(request)
        queue.waiting = left
        return batch

    def _finish(self, queue: _Queue, batch: Sequence[_Request], done: Future[Sequence[Completion]]) -> None:
        error = done.exception()
        if error is None:
            for request, completion in zip(batch, done.result(), strict=True):
                request.answer.set_result(completion)
        elif isinstance(error, AgentError) and len(error.partial) == len(batch):
            for request, completion in zip(batch, error.partial, strict=True):
                request.answer.set_exception(error) if completion is None else request.answer.set_result(completion)
        elif isinstance(error, UnreadablePromptError) and error.rows:
            for row in error.rows:
                batch[row].answer.set_exception(error)
        elif len(batch) == 1:
            batch[0].answer.set_exception(error)
        again: list[_Request] = []
        alone = not isinstance(error, UnreadablePromptError)
        with queue.lock:
            for request in batch:
                if error is None or request.answer.done():
                    continue
                if queue.closed or request.left.is_set():
                    request.answer.set_exception(error)
                    continue
                if request.turn is not None:
                    request.turn.waits()
                again.append(replace(request, alone=alone, taken=True))
            queue.add(again)
            queue.running = False
            self._start(queue)
