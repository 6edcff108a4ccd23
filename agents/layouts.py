"""How roles share models: one base in memory with an adapter per role, or a model per role.

``lora_policies`` keeps one base model in memory with one LoRA adapter per role; the reference is the base alone, or a
frozen copy of the adapter that training started from. ``full_policy`` trains all weights of a model; the reference is a
frozen copy of it. Roles may share a base or have models of different families.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

from peft import LoraConfig, PeftConfig
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from waltz_env.agents import lora
from waltz_env.agents.policy import LanguageModelPolicy, check_unwrapped
from waltz_env.agents.weights import copy_into
from waltz_env.errors import UsageError
from waltz_env.sharding import check_whole
from waltz_env.types import AGENTS, AgentID


def lora_policies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    names: Sequence[AgentID] = AGENTS,
    adapters: Mapping[AgentID, str | Path] | None = None,
    rank: int = 16,
    alpha: int = 32,
    target_modules: str | Sequence[str] = "all-linear",
    temperature: float = 1.0,
    seed: int = 0,
    gradient_checkpointing: bool = False,
) -> dict[AgentID, LanguageModelPolicy]:
    """One policy per name, all on one frozen base (arXiv:2106.09685): W + (alpha / rank) B A, with B = 0 at the start.

    Args:
        model: the base. LoRA layers are added to it; its own weights never change.
        tokenizer: the base's tokenizer.
        names: names of the policies; each gets an adapter.
        adapters: folders of trained adapters to start from, by name. The reference of such a policy is a frozen copy of
            its adapter, and rank, alpha and targets are the folder's. The reference of any other policy is the base.
        rank: rank of the adapters that start from zero.
        alpha: scale of those adapters, times ``rank``.
        target_modules: ``"all-linear"`` (every linear layer but the output head) or names of modules, as in PEFT.
        temperature: temperature of the distribution that is sampled and trained.
        seed: seeds the random factor A.
        gradient_checkpointing: see ``LanguageModelPolicy``.

    Raises:
        UsageError: ``adapters`` has a name that ``names`` lacks, a folder holds no adapter or one that is more than
            plain LoRA, a target's weight is shared with another module, or the model is sharded or wrapped, or does not
            support gradient checkpointing.
        CheckpointError: a folder's weights do not fit the model.
    """
    _check_model(model)
    adapters = adapters or {}
    unknown = set(adapters) - set(names)
    if unknown or not names:
        raise UsageError(f"`adapters` may hold {sorted(names)} only; got {sorted(adapters)}.")
    fresh = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # as GPT-2 stores its weights
        task_type="CAUSAL_LM",
        base_model_name_or_path=lora.base_name(model),
    )
    configs: dict[str, PeftConfig] = {
        name: lora.read_config(adapters[name]) if name in adapters else copy.deepcopy(fresh) for name in names
    }
    for config in configs.values():
        config.base_model_name_or_path = fresh.base_model_name_or_path or config.base_model_name_or_path
    references = {name: f"{name}_reference" for name in adapters}
    configs |= {references[name]: copy.deepcopy(configs[name]) for name in adapters}
    states = {name: lora.read_weights(folder) for name, folder in adapters.items()}
    lora.inject(model, configs, seed=seed)
    for name, state in states.items():
        copy_into(lora.adapter_parameters(model, name), state)
        copy_into(lora.adapter_parameters(model, references[name]), state)
    for name in names:
        for parameter in lora.adapter_parameters(model, name).values():
            parameter.requires_grad_(True)
    return {
        name: LanguageModelPolicy(
            model,
            tokenizer,
            adapter=name,
            reference=references.get(name),
            temperature=temperature,
            gradient_checkpointing=gradient_checkpointing,
        )
        for name in names
    }


def full_policy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    reference: PreTrainedModel | None = None,
    temperature: float = 1.0,
    gradient_checkpointing: bool = False,
) -> LanguageModelPolicy:
    """A policy that trains all weights of ``model``.

    Args:
        model: the causal LM.
        tokenizer: the model's tokenizer.
        reference: the reference, which is frozen; several policies that start from equal weights may share one. None
            copies the model as it is now.
        temperature: temperature of the distribution that is sampled and trained.
        gradient_checkpointing: see ``LanguageModelPolicy``.

    Raises:
        UsageError: the model is sharded or wrapped, or does not support gradient checkpointing.
    """
    _check_model(model)
    reference = (copy.deepcopy(model) if reference is None else reference).eval().requires_grad_(False)
    model.requires_grad_(True)
    return LanguageModelPolicy(
        model,
        tokenizer,
        adapter=None,
        reference=reference,
        temperature=temperature,
        gradient_checkpointing=gradient_checkpointing,
    )


def _check_model(model: nn.Module) -> None:
    check_unwrapped(model)
    check_whole(model.parameters(), task="A new policy")
