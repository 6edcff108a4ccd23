"""The few things that a learner asks of the other processes, through accelerate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from accelerate.accelerator import Accelerator
from accelerate.utils import DistributedType
from accelerate.utils.environment import parse_flag_from_env
from accelerate.utils.operations import broadcast, gather_object
from torch import nn

from waltz_env.algorithms.advantages import Key, Moments, merge_moments
from waltz_env.errors import UsageError
from waltz_env.sharding import is_shard

T = TypeVar("T")

_SHARDING = {
    "FSDP": DistributedType.FSDP,
    "DEEPSPEED": DistributedType.DEEPSPEED,
    "MEGATRON_LM": DistributedType.MEGATRON_LM,
}


def check_accelerator(accelerator: Accelerator) -> None:
    """Check that learners do what accelerate is configured for.

    Raises:
        UsageError: a mixed precision in which small updates are lost, or a way to shard models, which no learner here
            uses: every process would hold all weights, and nobody would notice.
    """
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise UsageError(f"mixed_precision must be 'no' or 'bf16'; got {accelerator.mixed_precision!r}.")
    asked = [name for name in _SHARDING if parse_flag_from_env(f"ACCELERATE_USE_{name}")]  # ignored on a CPU
    if asked or accelerator.distributed_type in _SHARDING.values():
        raise UsageError(
            f"accelerate is configured for {' and '.join(asked) or accelerator.distributed_type.value}, and no model "
            "here would be sharded by it. Configure accelerate for plain data parallelism, such as `accelerate launch "
            "--multi_gpu`, and to shard models, add --shard to `waltz train`."
        )


class Processes:
    """All processes of a run.

    The model is not wrapped for data parallelism: that would force every process to make the same number of forward
    passes, but a process may hold fewer rows than another, or none. Gradients are summed once per optimizer step.

    Sharded weights do force that (see ``agents.sharded_model``): processes then fill up with passes over no rows
    (``batches.deal``). Their gradients are summed in the backward pass.

    Args:
        accelerator: accelerator of this process; None for a run in one process, in the precision of the weights.
        parameters: the parameters that are trained.

    Attributes:
        count: number of processes.
        index: number of this process, from 0.
        several: whether there is more than one.
        in_step: whether all must make the same number of passes, because the parameters are sharded.

    Raises:
        UsageError: see ``check_accelerator``; or the parameters are sharded, and ``accelerator`` knows of one process.
    """

    def __init__(self, accelerator: Accelerator | None, *, parameters: Iterable[nn.Parameter] = ()) -> None:
        if accelerator is not None:
            check_accelerator(accelerator)
        self._accelerator = accelerator
        self.count = 1 if accelerator is None else accelerator.num_processes
        self.index = 0 if accelerator is None else accelerator.process_index
        self.several = self.count > 1
        self.in_step = any(map(is_shard, parameters))
        if self.in_step and not self.several:
            raise UsageError("The policy is sharded over several processes; give its learner their accelerator.")

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass in accelerate's mixed precision; sharded models have one of their own."""
        return nullcontext() if self._accelerator is None or self.in_step else self._accelerator.autocast()

    def gather(self, items: Sequence[T]) -> list[T]:
        """The items of all processes, in the order of the processes."""
        if not self.several:
            return list(items)
        gathered: list[T] = gather_object(list(items))
        return gathered

    def sum_moments(self, parts: Mapping[Key, Moments]) -> dict[Key, Moments]:
        """The moments of each key over all processes; a process may lack keys that another has."""
        return merge_moments(self.gather(list(parts.items())))

    def share_weights(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give all processes the weights of the first one. Each part of sharded weights is in one process alone."""
        if self.several:
            for parameter in parameters:
                if not is_shard(parameter):
                    parameter.data.copy_(broadcast(parameter.data))

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over processes, sent as one message. A missing gradient counts as zeros.

        A sum and not a mean: each process has already divided its losses by the rows or tokens of the whole step, so
        the shares add up to the gradient that one process with all rows would have. For sharded parameters, the
        backward pass has done so.
        """
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [each.grad for each in parameters if each.grad is not None and not is_shard(each.grad)]
        if not gradients or not self.several or self._accelerator is None:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        flat = self._accelerator.reduce(flat, reduction="sum")
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))
