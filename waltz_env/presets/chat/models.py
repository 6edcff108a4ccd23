"""The weights of a pair: models loaded, with adapters or with all weights to train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.agents import (
    LanguageModelPolicy,
    TransformersAgent,
    fast_dtype,
    full_policy,
    load_model,
    load_outline,
    load_smollm2,
    lora_policies,
)
from waltz_env.presets.chat.options import ChatOptions
from waltz_env.presets.chat.templates import TEMPLATES
from waltz_env.presets.pair import agents_of
from waltz_env.types import AGENTS, AgentID

SMOLLM2 = "smollm2"

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def load(source: str | Path, options: ChatOptions, accelerator: Accelerator) -> Loaded:
    """A model as ``options`` want it, on this process's device, and its tokenizer.

    Raises:
        UsageError: no causal LM can be loaded from ``source``.
    """
    device = accelerator.device
    dtype = base_dtype(options, device)
    if options.quantize != "none":
        return load_model(source, dtype=dtype, device_map=str(device), quantize=options.quantize)
    model, tokenizer = load_smollm2(dtype) if source == SMOLLM2 else load_model(source, dtype=dtype)
    return model.to(device), tokenizer


def outline(source: str | Path, options: ChatOptions, accelerator: Accelerator) -> Loaded:
    """The model without its weights, on the meta device, and its tokenizer.

    Raises:
        UsageError: no causal LM can be loaded from ``source``.
    """
    dtype = base_dtype(options, accelerator.device)
    if source == SMOLLM2:  # it comes from a package, and is small
        return load_smollm2(dtype)
    return load_outline(source, dtype=dtype)


def base_dtype(options: ChatOptions, device: torch.device) -> torch.dtype:
    """The dtype of the weights."""
    if options.dtype != "auto":
        return torch.float32 if options.dtype == "float32" else torch.bfloat16
    # CPUs gain from bfloat16 while they generate, but not while they learn.
    fast = fast_dtype(device) if device.type == "cuda" and not options.all_weights else None
    return fast or torch.float32


def sampling_dtype(options: ChatOptions, device: torch.device) -> torch.dtype | None:
    """The dtype of the weights while they generate, where it differs from that of the model."""
    return fast_dtype(device) if options.dtype == "auto" and options.quantize == "none" else None


def load_policies(
    options: ChatOptions,
    sources: Mapping[AgentID, str | Path],
    *,
    load: Callable[[str | Path], Loaded],
    seed: int,
    shared: bool = False,
    split: Callable[[PreTrainedModel | LanguageModelPolicy], object] = lambda weights: None,
) -> dict[AgentID, LanguageModelPolicy]:
    """The policy of each role. Roles with the same model share its base or, if all weights are trained, its reference.

    Args:
        options: whether adapters or all weights are trained, their rank, and the temperature.
        sources: model of each role.
        load: loads a model and its tokenizer.
        seed: seed of the adapters' initial weights.
        shared: whether both roles have one policy.
        split: called with each model or policy before the next one is loaded, so that no two are whole.
    """
    roles: dict[str, list[AgentID]] = {}
    for agent in AGENTS:
        roles.setdefault(str(sources[agent]), []).append(agent)
    policies: dict[AgentID, LanguageModelPolicy] = {}
    for source, agents in roles.items():
        model, tokenizer = load(source)
        names = ["shared"] if shared and len(agents) > 1 else agents
        several: dict[str, LanguageModelPolicy] = {}
        if options.all_weights:
            split(model.requires_grad_(False))
            for name in names:
                several[name] = full_policy(
                    load(source)[0],
                    tokenizer,
                    reference=model,
                    temperature=options.temperature,
                    gradient_checkpointing=options.gradient_checkpointing,
                )
                split(several[name])
        else:
            several = lora_policies(
                model,
                tokenizer,
                names=names,
                rank=options.adapter_rank,
                temperature=options.temperature,
                seed=seed,
                gradient_checkpointing=options.gradient_checkpointing,
            )
            split(next(iter(several.values())))  # they share the model
        policies |= {agent: several.get(agent) or several["shared"] for agent in agents}
    return {agent: policies[agent] for agent in AGENTS}


def agents(
    options: ChatOptions, policies: Mapping[AgentID, LanguageModelPolicy], *, seed: int, accelerator: Accelerator
) -> dict[AgentID, TransformersAgent]:
    """The agents that act with ``policies``.

    Raises:
        UsageError: a tokenizer has no chat template, or the limits leave no room for a prompt.
    """
    return agents_of(
        policies,
        seed=seed,
        process=accelerator.process_index,
        templates=TEMPLATES[options.system_prompts],
        max_new_tokens=options.new_tokens,
        max_prompt_tokens=options.prompt_tokens,
        batch_size=options.batch_size,
        sampling_dtype=sampling_dtype(options, accelerator.device),
    )
