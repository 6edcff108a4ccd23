"""A pair of agents on one model: one base in memory with two adapters. Also agents for any two policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict, Unpack

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.agents import TEMPLATES, LanguageModelPolicy, Template, TransformersAgent, lora_policies
from waltz_env.agents.sharded_model import shard_model
from waltz_env.types import AGENTS, AgentID

NEW_TOKENS = 512  # per turn, as in arXiv:2510.08240


def lora_pair(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int = 0,
    rank: int = 16,
    shared: bool = False,
    gradient_checkpointing: bool = False,
    **settings: Unpack[AgentSettings],
) -> dict[AgentID, TransformersAgent]:
    """Agents of both roles that act with LoRA adapters on ``model``. At the start both act as the model itself.

    Args:
        model: any causal language model.
        tokenizer: its tokenizer, with a chat template.
        seed: seed of the adapters' initial weights and of sampling.
        rank: rank of the adapters, which are on all linear layers.
        shared: whether both roles have one policy with one adapter.
        gradient_checkpointing: see ``LanguageModelPolicy``.
        **settings: settings of the agents, see ``AgentSettings``.
    """
    policies = pair_policies(
        model, tokenizer, seed=seed, rank=rank, shared=shared, gradient_checkpointing=gradient_checkpointing
    )
    return agents_of(policies, seed=seed, **settings)


def pair_policies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int = 0,
    rank: int = 16,
    shared: bool = False,
    gradient_checkpointing: bool = False,
) -> dict[AgentID, LanguageModelPolicy]:
    """The policy of each role: one adapter per role, or one for both. The arguments are those of ``lora_pair``."""
    names = ["shared"] if shared else AGENTS
    policies = lora_policies(
        model, tokenizer, names=names, rank=rank, seed=seed, gradient_checkpointing=gradient_checkpointing
    )
    return dict.fromkeys(AGENTS, policies["shared"]) if shared else policies


def shard(weights: LanguageModelPolicy | PreTrainedModel, accelerator: Accelerator) -> None:
    """Split a policy, or a model, over the processes of a run, in the precision of the run. One process has it whole.

    Raises:
        UsageError: the base is quantized.
    """
    bf16 = accelerator.mixed_precision == "bf16"
    if accelerator.num_processes == 1:
        return
    if isinstance(weights, LanguageModelPolicy):
        weights.shard(bf16=bf16)
    else:
        shard_model(weights, bf16=bf16)


class AgentSettings(TypedDict, total=False):
    """How the agents of a pair act.

    Attributes:
        process: index among the processes of one run, which start from equal weights and sample differently; default 0.
        templates: template of each role, from observation to chat messages; default ``TEMPLATES``.
        max_new_tokens: token limit of one action, one number or one per role; default 512, as in arXiv:2510.08240.
        max_prompt_tokens: token limit of a prompt; default None, what the model's context leaves.
        batch_size: number of actions generated at a time; default 32.
        sampling_dtype: precision of generation, where it differs from the model's.
        thoughts_end: what ends the private thoughts of a role that thinks before it speaks, by role; default none.
    """

    process: int
    templates: Mapping[AgentID, Template]
    max_new_tokens: Mapping[AgentID, int] | int
    max_prompt_tokens: int | None
    batch_size: int
    sampling_dtype: torch.dtype | None
    thoughts_end: Mapping[AgentID, str]


def agents_of(
    policies: Mapping[AgentID, LanguageModelPolicy], *, seed: int = 0, **settings: Unpack[AgentSettings]
) -> dict[AgentID, TransformersAgent]:
    """An agent of each role that acts with its policy's weights.

    Args:
        policies: policy of each role.
        seed: seed of sampling; each role and process draws from its own stream.
        **settings: see ``AgentSettings``.
    """
    process = settings.get("process", 0)
    templates = settings.get("templates", TEMPLATES)
    limits = settings.get("max_new_tokens", NEW_TOKENS)
    return {
        name: TransformersAgent(
            policies[name],
            templates[name],
            max_new_tokens=limits if isinstance(limits, int) else limits[name],
            seed=int(np.random.SeedSequence([seed, number, process]).generate_state(1)[0]),
            batch_size=settings.get("batch_size", 32),
            max_prompt_tokens=settings.get("max_prompt_tokens"),
            sampling_dtype=settings.get("sampling_dtype"),
            thoughts_end=settings.get("thoughts_end", {}).get(name),
        )
        for number, name in enumerate(AGENTS)
    }
