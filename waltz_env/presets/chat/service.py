"""A pair whose weights are on a Tinker service: an adapter for each role on the models of the options."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from waltz_env.agents import TinkerAgent, TinkerPolicy
from waltz_env.agents.tinker_policy import reduction_of
from waltz_env.errors import UsageError, unknown_name
from waltz_env.presets.chat.options import ChatOptions
from waltz_env.presets.chat.templates import TEMPLATES
from waltz_env.types import AGENTS, AgentID


def service_agents(
    service: Any, options: ChatOptions, *, hosted: bool, seed: int, shared: bool = False
) -> dict[AgentID, TinkerAgent]:
    """The agents of both roles, with adapters that the service holds and trains.

    Args:
        service: a ``tinker.ServiceClient``.
        options: models, the adapters' rank, limits and templates.
        hosted: whether it is the hosted service, which adds up losses as the API says; of another one it is found out.
        seed: seed of the adapters' initial weights and of sampling.
        shared: whether both roles have one policy.

    Raises:
        UsageError: the service lacks a model, or its tokenizer cannot be loaded here.
    """
    contexts = _contexts(service)
    for model in options.models.values():
        if contexts and model not in contexts:
            raise unknown_name("model of the service", model, contexts)
    reduction = "sum" if hosted else reduction_of(service, options.model, rank=options.adapter_rank)
    policies: dict[AgentID, TinkerPolicy] = {}
    agents = {}
    for number, role in enumerate(AGENTS):
        model = options.models[role]
        tokenizer, config, limit = _about(model)
        limit = min(limit, contexts.get(model) or sys.maxsize, options.context or sys.maxsize)
        new_tokens = options.new_tokens[role]
        if new_tokens >= limit:
            raise UsageError(f"{new_tokens} new tokens leave no room for a prompt in {model}'s context of {limit:,}.")
        first = next(iter(policies.values()), None)
        policies[role] = (
            first
            if shared and first is not None and first.model == model
            else TinkerPolicy(
                service,
                model,
                tokenizer=tokenizer,
                rank=options.adapter_rank,
                seed=_seed(seed, number) % 2**31,
                reduction=reduction,
            )
        )
        agents[role] = TinkerAgent(
            policies[role],
            TEMPLATES[options.system_prompts][role],
            max_new_tokens=new_tokens,
            max_prompt_tokens=min(limit - new_tokens, options.prompt_tokens or limit),
            seed=_seed(seed, number, 0),
            generation_config=config,
        )
    return agents


def _contexts(service: Any) -> Mapping[str, int | None]:
    """The models that the service names, with their longest contexts if it tells them; empty if it names none."""
    models = service.get_server_capabilities().supported_models
    return {model.model_name: model.max_context_length for model in models if model.model_name}


def _about(model: str) -> tuple[PreTrainedTokenizerBase, GenerationConfig | None, int]:
    """The model's tokenizer, its generation settings if it has any, and its longest context.

    Raises:
        UsageError: they cannot be loaded.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        limit = getattr(AutoConfig.from_pretrained(model).get_text_config(), "max_position_embeddings", sys.maxsize)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The tokenizer and configuration of {model!r} are needed here, and cannot be loaded: {error}"
        ) from error
    try:
        return tokenizer, GenerationConfig.from_pretrained(model), limit
    except OSError:  # many models have none
        return tokenizer, None, limit


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])
