"""How much memory a run needs, worked out from its models before they are loaded, and how much the device has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from waltz_env.agents import TransformersAgent
from waltz_env.algorithms import LearnerConfig, SurrogateConfig
from waltz_env.presets import Recipe
from waltz_env.protocols import Agent
from waltz_env.types import AgentID

FLOAT32 = 4
GRADIENT_AND_MOMENTS = 3 * FLOAT32  # per trained weight: AdamW keeps two moments
LINEAR_BYTES: Mapping[str, float | None] = {"none": None, "8bit": 1.0, "4bit": 0.5625}
"""Bytes per weight of a linear layer; 4 bits come with a float32 scale for every 64 weights."""
PROMPT = 1024  # tokens that a prompt is taken to have where no limit below is set


@dataclass(frozen=True, slots=True)
class Need:
    """The bytes that one part of a run needs.

    Attributes:
        what: the part.
        size: number of bytes.
        phase: when it is needed: ``"sampling"`` and ``"update"`` take turns; empty is always.
    """

    what: str
    size: float
    phase: str = ""


def needs(agents: Mapping[AgentID, Agent], recipe: Recipe, *, quantize: str = "none", processes: int = 1) -> list[Need]:
    """What a run needs on its device, part by part.

    Weights, optimizer and cache are exact for rows of the length that is assumed. Activations depend on the kernels and
    are worked out to within a factor of about two.

    Args:
        agents: agents on transformers, whose models may be on the meta device. Others are taken to need nothing here.
        recipe: settings of the run.
        quantize: how the models are to be quantized, if they are not yet.
        processes: number of processes, which split the weights among them if the recipe says so.
    """
    shards = processes if recipe.shard else 1
    acting = {name: agent for name, agent in agents.items() if isinstance(agent, TransformersAgent)}
    models = {id(model): model for agent in acting.values() for model in agent.policy.models}
    adapters = {id(p): p for a in acting.values() if a.policy.rank is not None for p in a.policy.parameters()}
    learning = [[acting[name] for name in stage.learners if name in acting] for stage in recipe.stages]
    trained = [{id(p): p.numel() for agent in several for p in agent.policy.parameters()} for several in learning]
    learned = max((sum(each.values()) for each in trained), default=0)
    update = [
        _update(acting[name], learner)
        for stage in recipe.stages
        for name, learner in stage.learners.items()
        if name in acting
    ]
    merged = [_merged(agent) for agent in acting.values()] if quantize == "none" and shards == 1 else []
    return [
        Need("base weights", sum(_weights(model, LINEAR_BYTES[quantize]) for model in models.values()) / shards),
        Need("adapters", sum(p.numel() for p in adapters.values()) * FLOAT32 / shards),
        Need("gradients and optimizer", learned * GRADIENT_AND_MOMENTS / shards),
        *([Need("weights of a pass", max(map(_together, models.values()), default=0))] if shards > 1 else []),
        Need("merged weights", max(merged, default=0), "sampling"),
        Need("KV cache", max(map(_cache, acting.values()), default=0), "sampling"),
        Need("reading prompts", max(map(_reading, acting.values()), default=0), "sampling"),
        Need("drawing tokens", max(map(_drawing, acting.values()), default=0), "sampling"),
        Need("activations", max((each[0] for each in update), default=0), "update"),
        Need("logits", max((each[1] for each in update), default=0), "update"),
    ]


def at_once(parts: Sequence[Need]) -> float:
    """The bytes that are needed at the same time."""
    size = {phase: sum(part.size for part in parts if part.phase == phase) for phase in ("", "sampling", "update")}
    return size[""] + max(size["sampling"], size["update"])


def device_memory(device: torch.device) -> int:
    """The bytes that the device has: those of the GPU, or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def row_length(agent: TransformersAgent) -> int:
    """The number of tokens that a prompt and its completion are taken to have."""
    return min(agent.encoder.max_tokens, PROMPT) + agent.max_new_tokens


def _base(model: PreTrainedModel) -> list[nn.Parameter]:
    return [parameter for name, parameter in model.named_parameters() if ".lora_" not in name]


def _linear(model: PreTrainedModel) -> dict[int, nn.Linear | Conv1D]:
    """The linear layers but the output head, by the identity of their weights; adapters are not among them."""
    head = model.get_output_embeddings()
    return {
        id(layer.weight): layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and layer is not head and ".lora_" not in name
    }


def _weights(model: PreTrainedModel, linear_bytes: float | None) -> float:
    linear = _linear(model) if linear_bytes is not None else {}
    return sum(p.numel() * ((linear_bytes or 0) if id(p) in linear else p.element_size()) for p in _base(model))


def _together(model: PreTrainedModel) -> int:
    """The weights that are whole during a pass through a sharded model: all outside its blocks, and two blocks."""
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    sizes = [sum(p.numel() * p.element_size() for p in block.parameters()) for block in blocks]
    return sum(p.numel() * p.element_size() for p in model.parameters()) - sum(sizes) + 2 * max(sizes, default=0)


def _merged(agent: TransformersAgent) -> int:
    """Copies that generation makes: of weights with an adapter, and of weights that are sampled in another dtype."""
    model = agent.policy.model
    adapted = _linear(model) if agent.policy.rank is not None else {}
    return sum(
        p.numel() * (agent.sampling_dtype or p.dtype).itemsize
        for p in _base(model)
        if id(p) in adapted or agent.sampling_dtype not in (None, p.dtype)
    )


def _cache(agent: TransformersAgent) -> int:
    config = agent.policy.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    numbers = 2 * config.num_hidden_layers * heads * width * agent.batch_size * row_length(agent)
    return numbers * (agent.sampling_dtype or agent.policy.model.dtype).itemsize


def _reading(agent: TransformersAgent) -> int:
    """What the widest layers of a block hold of a batch of prompts: a gated one has three tensors at once."""
    layers = _linear(agent.policy.model).values()
    widest = max((layer.nf if isinstance(layer, Conv1D) else layer.out_features for layer in layers), default=0)
    tokens = agent.batch_size * min(agent.encoder.max_tokens, PROMPT)
    return 3 * tokens * widest * (agent.sampling_dtype or agent.policy.model.dtype).itemsize


def _drawing(agent: TransformersAgent) -> int:
    """Logits of the next tokens, their log-probabilities and probabilities, and the sums of these in float64."""
    return agent.batch_size * agent.policy.model.config.get_text_config().vocab_size * (3 * FLOAT32 + 2 * FLOAT32)


def _update(agent: TransformersAgent, learner: LearnerConfig) -> tuple[int, int]:
    """Bytes of activations, and of logits, in the update on one micro-batch."""
    surrogate = getattr(learner, "surrogate", SurrogateConfig())
    model, length = agent.policy.model, row_length(agent)
    rows = max(1, surrogate.tokens_per_microbatch // length)
    # Autograd keeps the input of every linear layer, and about as many numbers again for norms, attention and the
    # activation function; an adapter on a base in another dtype keeps a float32 copy of its input.
    read = sum(layer.nx if isinstance(layer, Conv1D) else layer.in_features for layer in _linear(model).values())
    copies = FLOAT32 if agent.policy.rank is not None and model.dtype != torch.float32 else 0
    if agent.policy.gradient_checkpointing:  # the inputs of each block, and one block
        layers = model.config.get_text_config().num_hidden_layers
        read = read // layers + layers * model.config.get_text_config().hidden_size // 2
    logits = rows * agent.max_new_tokens * model.config.get_text_config().vocab_size
    # The logits, what is computed from them, and the gradients of both: six, as measured (docs/tables/speed.md).
    at_once = 6 * min(logits, surrogate.logits_at_once) * FLOAT32
    return rows * length * read * (2 * model.dtype.itemsize + copies), at_once
