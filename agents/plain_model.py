"""The plain model that a policy samples from: the modules of its model without LoRA layers, and weights put into it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

import psutil
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from waltz_env.sharding import check_whole


class _Weight(NamedTuple):
    """A weight of the original, where the original has it, and the plain model's parameter in its place."""

    holder: nn.Module
    name: str
    original: nn.Parameter
    copy: nn.Parameter


class PlainModel:
    """The modules of a model without its LoRA layers. Weights are in it only while it is ``filled``.

    Computing with it leaves the original alone, and is faster than with LoRA layers that are merged or off.

    Args:
        original: a model in evaluation mode. Its buffers and its configuration are shared, and not copied.

    Attributes:
        model: the modules.

    Raises:
        UsageError: the original's weights are sharded over processes.
    """

    def __init__(self, original: PreTrainedModel) -> None:
        check_whole(original.parameters(), task="Generating")
        base = {id(weight): weight for name, weight in original.named_parameters() if ".lora_" not in name}
        # PyTorch rounds differently where a weight requires a gradient, even if none is computed.
        copies = {key: nn.Parameter(weight.detach(), weight.requires_grad) for key, weight in base.items()}
        # What deepcopy finds here it takes over, and does not copy: weights, buffers and the configuration.
        known = {id(tensor): tensor for tensor in chain(original.parameters(), original.buffers())}
        self.model = copy.deepcopy(original, {**known, **copies, id(original.config): original.config})
        for module in [*self.model.modules()]:
            for name, child in [*module.named_children()]:
                if isinstance(child, LoraLayer):
                    setattr(module, name, child.get_base_layer())
        self._weights = [
            _Weight(holder, name, weight, copies.pop(id(weight)))
            for holder in original.modules()
            for name, weight in holder.named_parameters(recurse=False)
            if id(weight) in copies
        ]
        self._buffers = [
            (holder, name, buffer)
            for holder in original.modules()
            for name, buffer in holder.named_buffers(recurse=False)
        ]

    @property
    def fits(self) -> bool:
        """Whether the original still has the weights and buffers that it had; wrapping or moving it changes them."""
        return all(each.holder._parameters.get(each.name) is each.original for each in self._weights) and all(
            holder._buffers.get(name) is buffer for holder, name, buffer in self._buffers
        )

    def size(self, dtype: torch.dtype | None) -> int:
        """The bytes of all weights in ``dtype``; None keeps the original's. No more than that is copied to fill it."""
        return sum(each.original.numel() * (dtype or each.original.dtype).itemsize for each in self._weights)

    @torch.no_grad()
    def fill(self, merged: Callable[[Tensor], Tensor], dtype: torch.dtype | None) -> None:
        """Puts weights in, for good.

        Args:
            merged: gives the weight that takes the place of a weight of the original.
            dtype: dtype of the weights; None keeps the original's.

        Raises:
            UsageError: the original's weights are sharded over processes.
        """
        check_whole((each.original for each in self._weights), task="Generating")
        for each in self._weights:
            each.copy.data = merged(each.original).to(dtype or each.original.dtype)

    @contextmanager
    def filled(self, merged: Callable[[Tensor], Tensor], dtype: torch.dtype | None) -> Iterator[PreTrainedModel]:
        """The model with the weights of ``fill`` in it. Afterwards it has those from before."""
        before = [each.copy.data for each in self._weights]
        try:
            self.fill(merged, dtype)
            yield self.model
        finally:
            for each, data in zip(self._weights, before, strict=True):
                each.copy.data = data


def free_memory(device: torch.device) -> int:
    """The bytes that are free on the device: on the GPU, or in the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)
