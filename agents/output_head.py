"""The output head of a causal LM by itself: logits from hidden states, exactly as the model's own forward gives them.

Between hidden states and logits, some models do more than multiply by a matrix: Gemma 2 caps the logits, Granite and
Cohere scale them. So nothing is computed again here: the model's own forward runs, on a trunk that returns its input.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

# What a forward pass raises that expects more of its trunk than the trunk's usual output.
_UNEXPECTED = (AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)
_ROUNDING_STEPS = 16  # units of the logits' last place by which two computations of the same logits may differ


def head_logits(model: PreTrainedModel, hidden: Tensor, *, output: type[ModelOutput]) -> Tensor:
    """Logits (B, K, V) of the last hidden states (B, K, D).

    Args:
        model: the whole model.
        hidden: last hidden states of the model's trunk (``model.base_model``).
        output: type of the trunk's output, which holds what else the model's forward looks for.
    """
    # A shallow copy has the model's own head and settings; only its table of submodules is new. The model itself stays
    # as it is, because another thread may be using it. The class's `forward` leaves out hooks that move the inputs of
    # a model on several devices: they belong to the whole model.
    head = copy.copy(model)
    head._modules = {**model._modules, model.base_model_prefix: _Trunk(output)}
    logits: Tensor = type(model).forward(head, inputs_embeds=hidden, use_cache=False).logits
    return logits


class _Trunk(nn.Module):
    """Stands in for a model's trunk: its last hidden states are its inputs."""

    def __init__(self, output: type[ModelOutput]) -> None:
        super().__init__()
        self._output = output

    def forward(self, *ids: Any, inputs_embeds: Tensor, **others: Any) -> ModelOutput:
        return self._output(last_hidden_state=inputs_embeds)


@torch.no_grad()
def why_inseparable(model: PreTrainedModel) -> str | None:
    """The reason why ``head_logits`` cannot serve this model; None if it gives the model's own logits."""
    ids = torch.arange(4, device=model.device).unsqueeze(0)
    expected = model(input_ids=ids, use_cache=False).logits
    try:
        trunk = model.base_model(input_ids=ids, use_cache=False)
        logits = head_logits(model, trunk.last_hidden_state, output=type(trunk)).to(expected.device)
    except _UNEXPECTED as error:
        return f"its forward needs more than hidden states ({type(error).__name__}: {error})"
    allowed = _ROUNDING_STEPS * torch.finfo(expected.dtype).eps * expected.abs().max()
    if logits.shape != expected.shape or not (logits - expected).abs().max() <= allowed:
        return "its logits do not follow from its last hidden states alone"
    return None
