"""What the trainer says about fixed tokens, for the check that a sampler holds the trainer's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.agents.templates import CONVERSATION_SYSTEM
from waltz_env.errors import UsageError
from waltz_env.sharding import check_whole, whole

TOLERANCE = {torch.float32: 0.01, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Mean absolute difference of log-probabilities, in nats, that rounding to a dtype explains."""

Sync = Literal["adapter", "merged"]
_PROBE_TOKENS = 256


def probe_of(policy: LanguageModelPolicy, *, max_model_len: int) -> list[int]:
    """The fixed tokens, for a sampler that reads at most ``max_model_len``."""
    ids: list[int] = policy.tokenizer.encode(CONVERSATION_SYSTEM, add_special_tokens=False)
    return ids[: min(_PROBE_TOKENS, max_model_len - 1)]


def fingerprint(policy: LanguageModelPolicy) -> tuple[float, ...]:
    """Sums of the trainable tensors in float64: they show any change, even one that did not raise the version.

    Raises:
        UsageError: something else than ``LanguageModelPolicy.shard`` has sharded the policy.
    """
    parameters = policy.parameters()
    check_whole(parameters, task="An engine", or_shards=True)
    sums = [parameter.detach().sum(dtype=torch.float64) for parameter in parameters]
    return (id(policy), *whole(torch.stack(sums)).tolist())


@torch.no_grad()
def policy_logprobs(policy: LanguageModelPolicy, probe: Sequence[int]) -> Tensor:
    """Log-probabilities (L - 1,) float32 of the probe's tokens except the first, under the policy."""
    ids = torch.tensor([probe], device=policy.device)
    positions = torch.arange(len(probe), device=policy.device).unsqueeze(0)
    return _logprobs(policy.logits(ids, torch.ones_like(ids), positions, keep=len(probe)), ids)


@torch.no_grad()
def base_logprobs(policy: LanguageModelPolicy, probe: Sequence[int]) -> Tensor:
    """The same under the model without the adapter."""
    with policy.sampling_model(adapter=False) as model:
        ids = torch.tensor([probe], device=policy.device)
        return _logprobs(model(input_ids=ids, use_cache=False).logits, ids)


def adapter_ranks(policies: Sequence[LanguageModelPolicy], sync: Sync | None) -> list[int]:
    """The ranks of the policies' adapters; empty unless every policy has one.

    Raises:
        UsageError: there are no policies, or a policy has no adapter to send.
    """
    if not policies:
        raise UsageError("An engine needs the policies that it will sample for; got none.")
    ranks = [policy.rank for policy in policies if policy.rank is not None]
    if sync == "adapter" and len(ranks) < len(policies):
        raise UsageError(
            "Sending adapters (sync='adapter', and vLLM servers) needs policies that are LoRA adapters "
            "(`lora_policies`). For whole models use vLLM in this process with sync='merged'."
        )
    return ranks if len(ranks) == len(policies) else []


def _logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities (L - 1,) float32 of ``ids`` (1, L) except the first, under raw ``logits`` (1, L, V)."""
    return logits[0, :-1].float().log_softmax(-1).gather(-1, ids[0, 1:, None]).squeeze(-1).cpu()
