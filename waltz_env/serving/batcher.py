"""Dynamic batching for agents in this process: requests that arrive while one batch runs make the next one."""

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
from waltz_env.protocols import Agent
from waltz_env.types import AgentID, Completion, Observation

WINDOW = 0.002


@dataclass(frozen=True, slots=True)
class _Request:
    agent: AgentID
    observation: Observation
    alone: bool = False
    answer: Future[Completion] = field(default_factory=Future)


class Batcher:
    """Lets any number of coroutines, in any event loops, ask agents whose ``act`` blocks.

    One thread runs one batched ``act`` at a time, for all agents: two adapters on one base must never run at once. The
    oldest request chooses whose turn it is; others to the same agent go along. A batch that fails is tried again one
    request at a time, so that only those fail that have to. A call that is under way cannot be stopped: an agent that
    hangs holds up all that come after it.

    Args:
        agents: who may be asked.
        max_batch: requests in one call at most.
        window: seconds that a batch waits for company before it runs.
    """

    def __init__(self, agents: Mapping[AgentID, Agent], *, max_batch: int = 32, window: float = WINDOW) -> None:
        if max_batch < 1:
            raise UsageError(f"max_batch must be 1 or more; got {max_batch}.")
        self.agents = agents
        self.max_batch = max_batch
        self.window = window
        self._waiting: deque[_Request] = deque()
        self._running = False
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="waltz-batcher")

    async def ask(self, agent: AgentID, observation: Observation) -> Completion:
        """The agent's completion, or whatever it raised. Cancelling takes the request out of the queue."""
        request = _Request(agent, observation)
        with self._lock:
            self._waiting.append(request)
            self._start()
        return await asyncio.wrap_future(request.answer)

    def close(self) -> None:
        """Ends the thread after the batch that runs. What still waits is cancelled."""
        with self._lock:
            for request in self._waiting:
                request.answer.cancel()
            self._waiting.clear()
        self._thread.shutdown()

    def _start(self) -> None:
        """Runs a batch if none runs and some request waits. The lock is held, so the batch cannot end in here."""
        if self._waiting and not self._running:
            self._running = True
            batch: list[_Request] = []
            self._thread.submit(self._act, batch).add_done_callback(partial(self._finish, batch))

    def _act(self, batch: list[_Request]) -> Sequence[Completion]:
        """Fills ``batch`` with the requests that have come by now, and asks their agent."""
        time.sleep(self.window)
        with self._lock:
            batch += self._take()
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

    def _take(self) -> list[_Request]:
        """The oldest request that is still wanted and others to the same agent. The lock is held."""
        batch: list[_Request] = []
        passed_over: deque[_Request] = deque()
        while self._waiting and len(batch) < self.max_batch and not (batch and batch[0].alone):
            request = self._waiting.popleft()
            if batch and (request.alone or request.agent != batch[0].agent):
                passed_over.append(request)
            elif request.alone or request.answer.set_running_or_notify_cancel():
                batch.append(request)
        self._waiting = passed_over + self._waiting
        return batch

    def _finish(self, batch: Sequence[_Request], done: Future[Sequence[Completion]]) -> None:
        error = done.exception()
        if error is None:
            for request, completion in zip(batch, done.result(), strict=True):
                request.answer.set_result(completion)
        elif len(batch) == 1:
            batch[0].answer.set_exception(error)
        with self._lock:
            if error is not None and len(batch) > 1:
                self._waiting.extendleft(reversed([replace(request, alone=True) for request in batch]))
            self._running = False
            self._start()
