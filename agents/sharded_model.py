"""A model whose weights are split over all processes, block by block, by PyTorch's ``fully_shard`` (FSDP2).

A process holds its part of every weight. For a forward or backward pass through a block, all processes bring the
block's weights together, and let go of them afterwards. So all of them must make the same passes in the same order.
A learner gives each process as many micro-batches as any other (``algorithms.batches.deal``); while games are played,
processes keep each other company (``waltz_env.lock_step``).
"""

from __future__ import annotations

import copy
import weakref
from contextlib import ExitStack

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from waltz_env.errors import UsageError
from waltz_env.lock_step import Joint
from waltz_env.sharding import MESH, is_shard


def shard_model(model: PreTrainedModel, *, bf16: bool) -> None:
    """Split the weights of a model over all processes; each of them has the whole model now.

    Args:
        model: the model, in place.
        bf16: whether forward and backward passes are computed in bfloat16, whatever the dtype of the weights. Gradients
            are added up in float32.

    Raises:
        UsageError: this process is the only one.
    """
    mesh = _mesh(model.device.type)
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    precision = half if bf16 else MixedPrecisionPolicy()
    blocks: list[nn.Module] = [block for block in model.modules() if isinstance(block, GradientCheckpointingLayer)]
    for module in (*blocks, model):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=precision)
        # Losses are shares of one loss over all processes, so gradients add up. By default they would be averaged.
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
    _announce_passes(model)


def is_sharded(model: nn.Module) -> bool:
    """Whether ``LanguageModelPolicy.shard`` has split the weights of the model over processes."""
    return any(map(is_shard, model.parameters()))


def another(model: PreTrainedModel, *, bf16: bool) -> PreTrainedModel:
    """A sharded model of the same kind, with random weights. Each process has all of it for a moment."""
    with torch.random.fork_rng(devices=[]), torch.device(model.device):
        made: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(model.config), dtype=model.dtype)
    shard_model(made, bf16=bf16)
    return made


def _announce_passes(model: PreTrainedModel) -> None:
    """Have every forward pass begin as a joint computation, and compute as in ``torch.no_grad`` for inference mode.

    FSDP2 keeps the memory that it brings weights together in, and what is made in inference mode cannot be used again
    outside.
    """
    itself = weakref.ref(model)

    def keep_company() -> None:
        called = itself()
        if called is not None:
            with torch.no_grad():
                called(input_ids=torch.zeros(1, 1, dtype=torch.long, device=called.device), use_cache=False)

    joint = Joint(keep_company)
    modes: list[ExitStack] = []

    def before(module: nn.Module, inputs: object) -> None:
        modes.append(ExitStack())
        modes[-1].enter_context(joint.turn())
        if torch.is_inference_mode_enabled():
            modes[-1].enter_context(torch.inference_mode(False))
            modes[-1].enter_context(torch.no_grad())

    def after(module: nn.Module, inputs: object, output: object) -> None:
        modes.pop().close()

    model.register_forward_pre_hook(before, prepend=True)  # before FSDP's own, which brings the weights together
    model.register_forward_hook(after, always_call=True)


def _mesh(device: str) -> DeviceMesh:
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        raise UsageError(
            "Weights can be split over several processes only, and this is one process. Start one per GPU: "
            "torchrun --nproc-per-node 8 --no-python waltz train ..."
        )
    return init_device_mesh(device, (distributed.get_world_size(),), mesh_dim_names=(MESH,))
