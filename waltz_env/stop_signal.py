"""Ctrl-C and SIGTERM as a question that a training loop asks between steps."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Catch the first Ctrl-C or SIGTERM; a second one interrupts at once.

    Only the main thread of a process can catch signals. In any other, none is caught, and nothing asks to stop.

    Yields:
        Whether a signal has come, to be passed to ``train`` as ``should_stop``.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    caught: list[int] = []

    def first(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        for other, handler in previous.items():
            signal.signal(other, handler)
        print(  # noqa: T201  whoever pressed Ctrl-C waits for an answer
            "\nStopping after this step. Press Ctrl-C again to stop at once, without a checkpoint.", file=sys.stderr
        )

    previous = {number: signal.signal(number, first) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
