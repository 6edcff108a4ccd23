"""Values that belong to one process, such as threads and connections."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A value made on first use, once in each process.

    A forked child inherits no threads, and its parent's connections are not its own, so it makes a value for itself.
    So does an unpickled or deep copy.

    Args:
        make: makes the value; picklable if copies are to be.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        # A fork may come while a parent's thread holds a lock, which no thread of the child can ever release: locks,
        # too, are per process. The parent's value stays referenced in the child, since to finalize it there would
        # disturb the parent: both processes share the sockets and the epoll set under it.
        self._locks: dict[int, threading.Lock] = {}
        self._values: dict[int, T] = {}

    def __call__(self) -> T:
        """Return this process's value."""
        pid = os.getpid()
        with self._locks.setdefault(pid, threading.Lock()):
            if pid not in self._values:
                self._values[pid] = self._make()
            return self._values[pid]

    def made(self) -> T | None:
        """Return this process's value, or None if it has not been made."""
        return self._values.get(os.getpid())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._make,)
