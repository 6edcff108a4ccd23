"""Dynamic batching for agents in this process: requests that arrive during one batch form the next."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from waltz_env.errors import UsageError
from waltz_env.per_process import PerProcess
from waltz_env.protocols import Agent
from waltz_env.types import AgentID, Completion, Observation

WINDOW = 0.002


@dataclass(frozen=True, slots=True)
class _Request:
    agent: AgentID
    observation: Observation
    alone: bool = False
    answer: Future[Completion] = field(default_factory=Future)


class _Queue:
    """Requests that wait, and the one thread that runs them. ``lock`` guards the other fields."""

    def __init__(self) -> None:
        self.waiting: deque[_Request] = deque()
        self.running = False
        self.lock = threading.Lock()
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="waltz-batcher")


class Batcher:
    """Lets any number of coroutines, in any event loops, ask agents whose ``act`` blocks.

    A single thread runs one batched ``act`` at a time, for all agents: two adapters on one base must never run
    concurrently. The oldest request decides which agent is next; other requests to that agent join its batch. If a
    batch fails, each of its requests is retried alone, so that a bad request fails only itself. A running call cannot
    be stopped: an agent that hangs blocks all requests after it.

    Args:
        agents: agents by name.
        max_batch: maximum number of requests per call.
        window: seconds that a batch waits for more requests before it runs.
    """

    def __init__(self, agents: Mapping[AgentID, Agent], *, max_batch: int = 32, window: float = WINDOW) -> None:
        if max_batch < 1:
            raise UsageError(f"max_batch must be 1 or more; got {max_batch}.")
        self.agents = agents
        self.max_batch = max_batch
        self.window = window
        self._queue = PerProcess(_Queue)

    async def ask(self, agent: AgentID, observation: Observation) -> Completion:
        """Return the agent's completion, or raise what it raised. Cancelling removes the request from the queue."""
        request = _Request(agent, observation)
        queue = self._queue()
        with queue.lock:
            queue.waiting.append(request)
            self._start(queue)
        return await asyncio.wrap_future(request.answer)

    def close(self) -> None:
        """End the thread after the current batch. Waiting requests are cancelled."""
        queue = self._queue()
        with queue.lock:
            for request in queue.waiting:
                request.answer.cancel()
            queue.waiting.clear()
        queue.thread.shutdown()

    def _start(self, queue: _Queue) -> None:
        """Run a batch if requests are waiting and none is running. The caller holds the lock."""
        if queue.waiting and not queue.running:
            queue.running = True
            batch: list[_Request] = []
            queue.thread.submit(self._act, queue, batch).add_done_callback(partial(self._finish, queue, batch))

    def _act(self, queue: _Queue, batch: list[_Request]) -> Sequence[Completion]:
        """Fill ``batch`` with the requests that have arrived by now, and ask their agent."""
        time.sleep(self.window)
        with queue.lock:
            batch += self._take(queue)
        if not batch:
            return ()
        name = batch[0].agent
        completions = self.agents[name].act([request.observation for request in batch])
        if len(completions) != len(batch):
            raise UsageError(
                f"The agent {name!r} was given {len(batch)} observations and answered with {len(completions)} "
                "completions; it must give one for each, in order."
            )
        return completions

    def _take(self, queue: _Queue) -> list[_Request]:
        """Take the oldest request that was not cancelled, and others to the same agent. The caller holds the lock."""
        batch: list[_Request] = []
        passed_over: deque[_Request] = deque()
        while queue.waiting and len(batch) < self.max_batch and not (batch and batch[0].alone):
            request = queue.waiting.popleft()
            if batch and (request.alone or request.agent != batch[0].agent):
                passed_over.append(request)
            elif request.alone or request.answer.set_running_or_notify_cancel():
                batch.append(request)
        queue.waiting = passed_over + queue.waiting
        return batch

    def _finish(self, queue: _Queue, batch: Sequence[_Request], done: Future[Sequence[Completion]]) -> None:
        error = done.exception()
        if error is None:
            for request, completion in zip(batch, done.result(), strict=True):
                request.answer.set_result(completion)
        elif len(batch) == 1:
            batch[0].answer.set_exception(error)
        with queue.lock:
            if error is not None and len(batch) > 1:
                queue.waiting.extendleft(reversed([replace(request, alone=True) for request in batch]))
            queue.running = False
            self._start(queue)
