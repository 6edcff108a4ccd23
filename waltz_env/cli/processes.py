"""The processes that ``accelerate launch`` starts for one command; usually one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator


@contextmanager
def processes() -> Iterator[Accelerator]:
    """The processes of a command. They leave together, and end their connections before the interpreter ends.

    Otherwise threads of torch's process group may outlive the interpreter, which aborts the process.
    """
    accelerator = Accelerator()
    try:
        yield accelerator
        accelerator.wait_for_everyone()
    finally:
        accelerator.end_training()
