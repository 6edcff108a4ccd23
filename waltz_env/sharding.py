"""Tensors that are split over processes, by this package or by something else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from waltz_env.errors import UsageError

MESH = "waltz_shards"
"""Name of the mesh of processes over which ``LanguageModelPolicy.shard`` splits weights."""


def is_shard(tensor: Any) -> bool:
    """Whether this process holds a part of the tensor, and ``LanguageModelPolicy.shard`` split it."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor) and tensor.device_mesh.mesh_dim_names == (MESH,)


def check_whole(tensors: Iterable[Any], *, task: str, or_shards: bool = False) -> None:
    """Check that this process holds all of every tensor.

    Tensors that ``fully_shard`` and tensor parallelism split are DTensors; DeepSpeed leaves empty tensors behind.

    Args:
        tensors: weights, or other torch tensors that are never empty.
        task: what is about to be done with them, as the subject of the error's sentence.
        or_shards: whether tensors that ``LanguageModelPolicy.shard`` split will do.

    Raises:
        UsageError: it holds a part of some, or nothing.
    """
    from torch.distributed.tensor import DTensor

    for tensor in tensors:
        if or_shards and is_shard(tensor):
            continue
        if isinstance(tensor, DTensor) or tensor.numel() == 0:
            raise UsageError(
                f"{task} needs all weights in this process, and they are sharded over processes (by fully_shard, "
                "tensor parallelism or DeepSpeed). Use a model that is not sharded: every process then holds a copy. "
                "To shard a policy, make it from the whole model and call its method `shard`."
            )


def whole(tensor: Any) -> Any:
    """All of the tensor. If it is a shard, every process must call this at the same time, and each gets a copy."""
    if not is_shard(tensor):
        return tensor
    return tensor.to(tensor.device_mesh.device_type).full_tensor()


def fitted(tensor: Any, *, like: Any) -> Any:
    """The tensor split as ``like`` is, or whole if ``like`` is. Every process must call this at the same time."""
    from torch.distributed.tensor import distribute_tensor

    if not is_shard(like):
        return whole(tensor)
    if is_shard(tensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
