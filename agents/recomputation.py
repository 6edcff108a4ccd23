"""Gradient checkpointing: a block's activations are dropped and computed again in the backward pass (arXiv:1604.06174).

``gradient_checkpointing_enable`` of transformers works in training mode alone, where dropout is on, and would compute a
block again with whichever adapter is on by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from waltz_env.errors import UsageError


def blocks_of(model: PreTrainedModel) -> list[nn.Module]:
    """The blocks of the model whose activations can be computed again.

    Raises:
        UsageError: the model has none.
    """
    blocks: list[nn.Module] = [block for block in model.modules() if isinstance(block, GradientCheckpointingLayer)]
    if not blocks:
        raise UsageError(
            f"{type(model).__name__} does not support gradient checkpointing. Turn it off, and lower "
            "tokens_per_microbatch if memory runs out."
        )
    return blocks


@contextmanager
def recomputed(blocks: Sequence[nn.Module], prepare: Callable[[], object]) -> Iterator[None]:
    """Inside, a forward pass keeps only each block's inputs.

    Args:
        blocks: blocks of one model, none inside another.
        prepare: called before a block runs, now and in the backward pass; it puts the model into the same state.
    """
    own = [block.__dict__.get("forward") for block in blocks]  # set by hooks, such as those for several devices
    for block in blocks:
        block.forward = partial(checkpoint, partial(_run, prepare, block.forward), use_reentrant=False)
    try:
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


def _run(prepare: Callable[[], object], forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    prepare()
    return forward(*inputs, **named)
