"""What one process decides for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object

from waltz_env.errors import WaltzError

T = TypeVar("T")


def by_main_process(work: Callable[[], T], accelerator: Accelerator) -> T:
    """What ``work`` returns in the main process, or the error of this package that it raises there, in all processes.

    Args:
        work: called in the main process alone; what it returns can be pickled.
        accelerator: the processes.
    """
    outcome: list[T] = []
    error: WaltzError | None = None
    if accelerator.is_main_process:
        try:
            outcome = [work()]
        except WaltzError as raised:
            error = raised
    for told in gather_object([error]):
        if told is not None:
            raise told
    (shared,) = gather_object(outcome)
    return shared
