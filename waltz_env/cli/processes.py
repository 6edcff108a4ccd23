"""The processes that ``accelerate launch`` or ``torchrun`` starts for one command; usually one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from torch.distributed import DistError

from waltz_env.errors import ProcessError, WaltzError


@contextmanager
def processes() -> Iterator[Accelerator]:
    """The processes of a command. They leave together, and end their connections before the interpreter ends.

    Otherwise threads of torch's process group may outlive the interpreter, which aborts the process.

    Raises:
        ProcessError: another process has ended too early.
    """
    accelerator = Accelerator()
    try:
        yield accelerator
        accelerator.wait_for_everyone()
    except RuntimeError as error:
        # NCCL and torch's store have errors of their own; gloo raises a RuntimeError that names its source file.
        if isinstance(error, WaltzError) or not (isinstance(error, DistError) or "gloo" in str(error)):
            raise
        raise ProcessError(
            "Another process of this run has ended; its own output says why. The checkpoints are complete: --resume "
            f"continues from the newest, on as many processes as you like. ({str(error).strip().splitlines()[0]})"
        ) from error
    finally:
        accelerator.end_training()
