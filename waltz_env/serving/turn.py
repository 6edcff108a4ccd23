"""The time of one request to an agent: waiting for its turn, and running."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Literal

State = Literal["waiting", "running"]


class Turn:
    """Two budgets of time, of which one is spent at any moment.

    A request waits until ``starts``. It may wait again after that, e.g. when its batch failed and each request is
    retried alone. Make it in the event loop that waits for the answer; ``starts`` and ``waits`` work from any thread.

    Args:
        waiting: seconds that the request may wait.
        running: seconds that it may run.

    Attributes:
        expired: resolves to the state whose budget is spent.
        seconds: seconds spent in each state so far, up to the last change.
    """

    def __init__(self, *, waiting: float, running: float) -> None:
        self._loop = asyncio.get_running_loop()
        # The time of asyncio's own loops is exact. Others, such as uvloop, tell when their last iteration began, in
        # milliseconds: waiting would be counted as running, and a fast turn as none.
        self._clock = self._loop.time if isinstance(self._loop, asyncio.BaseEventLoop) else time.monotonic
        self._budgets: dict[State, float] = {"waiting": waiting, "running": running}
        self._state: State = "waiting"
        self._since = self._clock()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.expired: asyncio.Future[State] = self._loop.create_future()
        self.seconds: dict[State, float] = {"waiting": 0.0, "running": 0.0}
        self._set_timer()

    def starts(self) -> None:
        """The request runs from now on."""
        self._switch_soon("running")

    def waits(self) -> None:
        """The request waits again from now on."""
        self._switch_soon("waiting")

    def close(self) -> None:
        """Stop the clock."""
        self._switch(self._state, self._clock())
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _switch_soon(self, state: State) -> None:
        # The loop that waited may be closed while the batch still runs.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._switch, state, self._clock())

    def _switch(self, state: State, now: float) -> None:
        if self._closed:
            return
        self.seconds[self._state] += max(now - self._since, 0.0)
        self._state, self._since = state, now
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left = self._budgets[self._state] - self.seconds[self._state]
        self._timer = self._loop.call_later(max(left, 0.0), self._expire) if left < math.inf else None

    def _expire(self) -> None:
        if not self.expired.done():
            self.expired.set_result(self._state)
