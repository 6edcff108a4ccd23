"""The few things that a learner asks of the other processes, through accelerate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from accelerate.accelerator import Accelerator
from accelerate.utils.operations import broadcast, gather_object
from torch import nn

T = TypeVar("T")


class Processes:
    """All processes of a run.

    The model is not wrapped for data parallelism: that would force every process to make the same number of forward
    passes, and a process may hold fewer rows than another, or none. Gradients are summed once for each optimiser step.

    Args:
        accelerator: of this process; None for a run in one process in the precision of the weights.
    """

    def __init__(self, accelerator: Accelerator | None) -> None:
        self._accelerator = accelerator
        self.several = accelerator is not None and accelerator.num_processes > 1

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass in accelerate's mixed precision."""
        return nullcontext() if self._accelerator is None else self._accelerator.autocast()

    def gather(self, items: Sequence[T]) -> list[T]:
        """The items of all processes, in the order of the processes."""
        if not self.several:
            return list(items)
        gathered: list[T] = gather_object(list(items))
        return gathered

    def share_weights(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gives all processes the weights of the first."""
        if self.several:
            for parameter in parameters:
                parameter.data.copy_(broadcast(parameter.data))

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replaces each gradient by its sum over processes, as one message. A missing gradient counts as zeros."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if not self.several or self._accelerator is None:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        flat = self._accelerator.reduce(flat, reduction="sum")
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))
