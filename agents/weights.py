"""Weights: loading them into parameters, and adding a LoRA adapter to those of its base."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from waltz_env.errors import CheckpointError
from waltz_env.sharding import check_whole, fitted


def copy_into(parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
    """Sets the parameters to ``state``, all of them or, if a name or a shape differs, none.

    Raises:
        CheckpointError: a name or a shape differs.
        UsageError: something else than ``LanguageModelPolicy.shard`` has sharded the parameters.
    """
    check_whole(parameters.values(), task="Loading weights", or_shards=True)
    expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != given:
        wrong = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
        raise CheckpointError(
            f"The weights do not fit the policy: {len(wrong)} of {len(expected)} differ, first {wrong[0]!r} (expected "
            f"shape {expected.get(wrong[0])}, got {given.get(wrong[0])}). Use the model, rank and targets that they "
            "were made with."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(fitted(state[name], like=parameter))


def merger(layers: Iterable[Linear], adapter: str | None) -> Callable[[Tensor], Tensor]:
    """What gives the weight that a plain model has in place of a weight of the base: with the adapter added to it.

    Args:
        layers: layers with LoRA adapters.
        adapter: name of the adapter; None adds nothing.
    """
    adapted = {id(layer.get_base_layer().weight): layer for layer in layers if adapter in layer.scaling}

    def merged(weight: Tensor) -> Tensor:
        layer = adapted.get(id(weight))
        return weight.detach() if layer is None else weight.detach() + layer.get_delta_weight(adapter)

    return merged
