"""A pair of agents on one model, one base in memory and two adapters; and agents for any two policies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.agents import TEMPLATES, LanguageModelPolicy, Template, TransformersAgent, lora_policies
from waltz_env.types import AGENTS, AgentID

NEW_TOKENS = 512  # a turn, as in arXiv:2510.08240


def lora_pair(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int = 0,
    process: int = 0,
    rank: int = 16,
    shared: bool = False,
    templates: Mapping[AgentID, Template] = TEMPLATES,
    max_new_tokens: Mapping[AgentID, int] | int = NEW_TOKENS,
    max_prompt_tokens: int | None = None,
    batch_size: int = 32,
    sampling_dtype: torch.dtype | None = None,
) -> tuple[dict[AgentID, LanguageModelPolicy], dict[AgentID, TransformersAgent]]:
    """Policies and agents of both roles, as LoRA adapters on ``model``. At the start both are the model itself.

    Args:
        model: any causal LM.
        tokenizer: its tokenizer, with a chat template.
        seed: of the adapters' initial weights and of sampling.
        process: index among the processes of one run, which start from equal weights and sample differently.
        rank: of the adapters, on all linear layers.
        shared: whether both roles have one policy, with one adapter.
        templates: observation to chat messages, for each role.
        max_new_tokens: of one action; one number, or one for each role.
        max_prompt_tokens: None: what the model's context leaves.
        batch_size: rows generated at a time.
        sampling_dtype: precision of generation, where it is not the model's.
    """
    policies = pair_policies(model, tokenizer, seed=seed, rank=rank, shared=shared)
    return policies, agents_of(
        policies,
        seed=seed,
        process=process,
        templates=templates,
        max_new_tokens=max_new_tokens,
        max_prompt_tokens=max_prompt_tokens,
        batch_size=batch_size,
        sampling_dtype=sampling_dtype,
    )


def pair_policies(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, seed: int = 0, rank: int = 16, shared: bool = False
) -> dict[AgentID, LanguageModelPolicy]:
    """The policy of each role, an adapter of its own or one for both; arguments as for ``lora_pair``."""
    if not shared:
        return lora_policies(model, tokenizer, rank=rank, seed=seed)
    (policy,) = lora_policies(model, tokenizer, names=["shared"], rank=rank, seed=seed).values()
    return dict.fromkeys(AGENTS, policy)


def agents_of(
    policies: Mapping[AgentID, LanguageModelPolicy],
    *,
    seed: int = 0,
    process: int = 0,
    templates: Mapping[AgentID, Template] = TEMPLATES,
    max_new_tokens: Mapping[AgentID, int] | int = NEW_TOKENS,
    max_prompt_tokens: int | None = None,
    batch_size: int = 32,
    sampling_dtype: torch.dtype | None = None,
) -> dict[AgentID, TransformersAgent]:
    """An agent of each role, with its policy's weights; arguments as for ``lora_pair``."""
    return {
        name: TransformersAgent(
            policies[name],
            templates[name],
            max_new_tokens=max_new_tokens if isinstance(max_new_tokens, int) else max_new_tokens[name],
            seed=int(np.random.SeedSequence([seed, number, process]).generate_state(1)[0]),
            batch_size=batch_size,
            max_prompt_tokens=max_prompt_tokens,
            sampling_dtype=sampling_dtype,
        )
        for number, name in enumerate(AGENTS)
    }
