"""An event loop for callers that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from waltz_env.errors import UsageError
from waltz_env.per_process import PerProcess

T = TypeVar("T")


class LoopThread:
    """An asyncio event loop on its own daemon thread, which starts on first use.

    Objects that are bound to a loop, such as connection pools, can live on this one and be used from any thread, and
    from within any other running loop, e.g. a notebook's. A forked child and an unpickled copy get a new loop.
    """

    def __init__(self) -> None:
        self._running = PerProcess(_start)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start the coroutine. Cancelling the future cancels it.

        Raises:
            UsageError: the loop was closed.
        """
        loop, _ = self._running()
        if loop.is_closed():
            coroutine.close()
            raise UsageError("What was closed cannot be asked any more. Make a new one.")
        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the coroutine's result, or raise its exception. An interrupt (Ctrl-C) cancels it.

        Raises:
            UsageError: the loop was closed.
        """
        future = self.submit(coroutine)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """Cancel whatever is still running and end the thread. Safe to call more than once."""
        running = self._running.made()
        if running is None:
            return
        loop, thread = running
        if loop.is_closed():
            return
        self.run(_cancel_others())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _start() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="waltz-loop", daemon=True)
    thread.start()
    return loop, thread


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # the loop's next iteration finishes closing their connections
