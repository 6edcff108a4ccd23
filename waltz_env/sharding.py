"""Weights that are split over processes: refused wherever only the part in this process would be read or written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from waltz_env.errors import UsageError


def check_whole(tensors: Iterable[Any], *, task: str) -> None:
    """Check that this process holds all of every tensor.

    Tensors that ``fully_shard`` and tensor parallelism split are DTensors; DeepSpeed leaves empty tensors behind.

    Args:
        tensors: weights, or other torch tensors that are never empty.
        task: what is about to be done with them, as the subject of the error's sentence.

    Raises:
        UsageError: it holds a part of some, or nothing.
    """
    from torch.distributed.tensor import DTensor

    if any(isinstance(tensor, DTensor) or tensor.numel() == 0 for tensor in tensors):
        raise UsageError(
            f"{task} needs all weights in this process, and they are sharded over processes (by fully_shard, tensor "
            "parallelism or DeepSpeed). Use a model that is not sharded: every process then holds a copy."
        )
