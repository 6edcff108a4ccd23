"""One vLLM engine in this process, which samples for every policy on one base model and proves what it holds."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.agents.sampling import Sampled
from waltz_env.agents.sync_check import Reading, SyncReport, compare, verify
from waltz_env.agents.templates import CONVERSATION_SYSTEM
from waltz_env.errors import SyncError, UsageError

Sync = Literal["adapter", "merged"]
TOLERANCE = {torch.float32: 0.01, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Mean absolute difference of a log-probability, nats, that rounding to a dtype explains."""
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM has room for
_PROBE_TOKENS = 256
_PREFILL_TOKENS = 4096  # of one step on a CPU, at the least


class VLLMEngine:
    """Continuous batching by vLLM, for policies whose weights change.

    Each call of ``generate`` first makes sure that the engine holds the weights of the policy it is for, as they are at
    that moment, whoever changed them: ``sync``. There are two ways to bring them over:

    * ``"adapter"``: the LoRA adapter alone, a few MB, as a request of vLLM's own; the base stays. Both roles live side
      by side in the engine. Every version has a name of its own, which is part of the key of vLLM's prefix cache.
    * ``"merged"``: all weights, the adapter merged into the base, from memory to memory; the prefix cache is emptied.
      Two roles take turns. On a CPU, where vLLM's LoRA kernels run at a fraction of the speed, this is the faster way;
      policies without an adapter have no other.

    After each sync both sides read the same tokens, and a sync that did not arrive is an error, see ``sync_check``.

    vLLM is set up to run inside this process (``VLLM_ENABLE_V1_MULTIPROCESSING=0``), on one device; for more, serve the
    policy with vLLM's own server. Sampling is from the full distribution: no top-p, no top-k, no penalties.

    Args:
        policies: all that the engine will sample for. They share one base, or at least its architecture and tokenizer.
        sync: None: ``"adapter"`` on a GPU where all policies are adapters, else ``"merged"``.
        dtype: of the weights in the engine.
        max_model_len: tokens of prompt and completion together at most.
        max_num_seqs: completions that are generated at the same time.
        kv_cache_gib: memory for attention caches, GiB.
        tolerance: of the check after a sync, nats, mean of absolute differences; None: that of ``TOLERANCE``.
        options: further arguments of ``vllm.LLM``; they go before the engine's own.

    Attributes:
        sync_mode: the way that weights are brought over.
        report: of the latest sync; None before the first.
        syncs: how often weights were brought over.

    Raises:
        UsageError: no policies, policies that cannot be brought over in this way, or vLLM is not installed.
        SyncError: the base model itself gives other log-probabilities in the engine than in the trainer.
    """

    def __init__(
        self,
        policies: Sequence[LanguageModelPolicy],
        *,
        sync: Sync | None = None,
        dtype: torch.dtype = torch.bfloat16,
        max_model_len: int = 4608,
        max_num_seqs: int = 64,
        kv_cache_gib: float = 2.0,
        tolerance: float | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        ranks = _check(policies, sync)
        first = policies[0]
        on_gpu = first.device.type == "cuda"
        self.sync_mode: Sync = sync or ("adapter" if on_gpu and ranks else "merged")
        self.max_model_len = max_model_len
        self.tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
        self.report: SyncReport | None = None
        self.syncs = 0
        self._policies = tuple(policies)
        self._dtype = dtype
        self._folder = tempfile.TemporaryDirectory(prefix="waltz-vllm-", ignore_cleanup_errors=True)
        self._numbers = count(1)
        self._requests: dict[int, Any] = {}
        lora = {
            "enable_lora": True,
            "max_loras": len(policies),
            "max_cpu_loras": 2 * len(policies),
            "max_lora_rank": next((r for r in _LORA_RANKS if r >= max(ranks, default=0)), _LORA_RANKS[-1]),
        }
        on_cpu = {
            "enforce_eager": True,
            # vLLM 0.32 winds a request's random stream back after a part of its prompt, which CPU generators cannot do.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(max_model_len, _PREFILL_TOKENS),
        }
        base = Path(self._folder.name) / "base"
        first.save_merged(base, dtype=dtype, adapter=False)
        settings: dict[str, Any] = {
            "dtype": str(dtype).removeprefix("torch."),
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "kv_cache_memory_bytes": int(kv_cache_gib * 2**30),
            "generation_config": "vllm",  # no sampling defaults of the model's own
            "logprobs_mode": "processed_logprobs",  # of logits / temperature, as the trainer computes them
            **({} if on_gpu else on_cpu),
            **(lora if self.sync_mode == "adapter" else {}),
            **(options or {}),
        }
        self._llm = _import_vllm().LLM(model=str(base), **settings)
        shutil.rmtree(base)
        ids = first.tokenizer.encode(CONVERSATION_SYSTEM, add_special_tokens=False)
        self._probe: list[int] = ids[: min(_PROBE_TOKENS, max_model_len - 1)]
        self._held = self._base_reading(first)

    def generate(
        self,
        policy: LanguageModelPolicy,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[int],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        temperature: float,
        json_schema: Mapping[str, Any] | None = None,
        pinned: Pinned | None = None,
    ) -> list[Sampled]:
        """Continues each prompt with the policy's weights as they are now, or as they were when they were pinned.

        Args:
            policy: one of the engine's.
            prompts: ids, of any lengths from 1.
            seeds: of each prompt's own random stream.
            max_new_tokens: a completion ends there at the latest.
            stop_ids: ids that end a completion; the one sampled is kept.
            temperature: log-probabilities are of ``logits / temperature``; 0 takes the likeliest token.
            json_schema: only texts of this JSON schema are possible. The log-probabilities are then those of the
                constrained distribution.
            pinned: what ``pin`` gave. The policy is then not looked at, and may be under update in another thread.

        Raises:
            UsageError: the policy is not one of the engine's.
            SyncError: its weights could not be brought over, or the pinned ones have been replaced since.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        if pinned is None:
            self.sync(policy)
        elif self._held[self._place(policy)].weights != pinned.fingerprint:
            raise SyncError("The engine no longer holds the pinned weights: others have been brought over since.")
        parameters = [
            SamplingParams(
                temperature=temperature,
                seed=seed,
                max_tokens=max_new_tokens,
                stop_token_ids=list(stop_ids),
                logprobs=0,  # of the sampled token alone
                flat_logprobs=True,
                detokenize=False,
                structured_outputs=StructuredOutputsParams(json=dict(json_schema)) if json_schema else None,
            )
            for seed in seeds
        ]
        outputs = [output.outputs[0] for output in self._run(policy, prompts, parameters)]
        return [
            Sampled(tuple(output.token_ids), tuple(output.logprobs.logprobs), output.finish_reason == "stop")
            for output in outputs
        ]

    def sync(self, policy: LanguageModelPolicy) -> None:
        """Brings the policy's weights over, unless the engine holds them already, and checks that they arrived.

        Raises:
            UsageError: the policy is not one of the engine's.
            SyncError: they did not arrive, or the engine computes something else with them.
        """
        if not any(policy is each for each in self._policies):
            raise UsageError("This engine was not made for that policy. Name it in `policies` when the engine is made.")
        place = self._place(policy)
        before = self._held.get(place, self._held[_BASE])
        weights = (id(policy), *_fingerprint(policy))
        if before.weights == weights:
            return
        self._held[place] = _Held((), before.reading)  # whatever happens now, it is not known to hold anything
        self._bring_adapter(policy) if self.sync_mode == "adapter" else self._bring_merged(policy)
        reading = Reading(_probe_logprobs(policy, self._probe), self._engine_logprobs(policy))
        self.report = compare(before.reading, reading, resolution=torch.finfo(self._dtype).eps)
        verify(self.report, tolerance=self.tolerance)
        self._held[place] = _Held(weights, reading)
        self.syncs += 1

    def pin(self, policy: LanguageModelPolicy) -> Pinned:
        """Brings the policy's weights over, to be sampled from while the policy changes.

        They stay until the policy is synced or pinned again.

        Raises:
            UsageError: the policy is not one of the engine's, or several take turns in it (``"merged"``).
            SyncError: they could not be brought over.
        """
        if self.sync_mode == "merged" and len(self._policies) > 1:
            raise UsageError(
                "An engine with sync='merged' holds the weights of one policy at a time, so two roles cannot go on "
                "while their policies are updated. Use sync='adapter', or an engine for each policy."
            )
        self.sync(policy)
        return Pinned(policy.version, self._held[self._place(policy)].weights)

    def close(self) -> None:
        """Frees the engine's memory and files. It cannot be used after that."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        self._folder.cleanup()

    def _place(self, policy: LanguageModelPolicy) -> int:
        """Where in the engine the policy's weights are: adapters stand side by side, merged weights have one place."""
        return id(policy) if self.sync_mode == "adapter" else _MERGED

    def _run(self, policy: LanguageModelPolicy | None, prompts: Sequence[Sequence[int]], parameters: Any) -> list[Any]:
        request = self._requests.get(id(policy))
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return self._llm.generate(inputs, parameters, use_tqdm=False, lora_request=request)

    def _bring_merged(self, policy: LanguageModelPolicy) -> None:
        with policy.merged_weights(self._dtype) as weights:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
        self._llm.reset_prefix_cache()

    def _bring_adapter(self, policy: LanguageModelPolicy) -> None:
        """Under a new name and number: vLLM's caches, of adapters and of prefixes, can then never serve an old one."""
        from vllm.lora.request import LoRARequest

        number = next(self._numbers)
        folder = Path(self._folder.name) / f"adapter-{number}"
        policy.save(folder)
        old = self._requests.pop(id(policy), None)
        if old is not None:  # first, or the new one might push out the other role's
            self._llm.llm_engine.remove_lora(old.lora_int_id)
            shutil.rmtree(old.lora_path)
        request = LoRARequest(folder.name, number, str(folder))
        self._llm.llm_engine.add_lora(request)
        if number not in self._llm.llm_engine.list_loras():
            raise SyncError(f"vLLM did not take over {folder.name}: it holds {self._llm.llm_engine.list_loras()}.")
        self._requests[id(policy)] = request

    def _engine_logprobs(self, policy: LanguageModelPolicy | None) -> Tensor:
        """Of the probe's tokens but the first, as the engine computes them now."""
        from vllm import SamplingParams

        parameters = SamplingParams(max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False)
        (output,) = self._run(policy, [self._probe], parameters)
        return torch.tensor(output.prompt_logprobs.logprobs)

    def _base_reading(self, policy: LanguageModelPolicy) -> dict[int, _Held]:
        with policy.sampling_model(adapter=False) as model, torch.no_grad():
            ids = torch.tensor([self._probe], device=policy.device)
            trainer = _logprobs(model(input_ids=ids, use_cache=False).logits, ids)
        reading = Reading(trainer, self._engine_logprobs(None))
        verify(compare(reading, reading, resolution=0.0), tolerance=self.tolerance)
        return {_BASE: _Held((), reading)}


@dataclass(frozen=True, slots=True)
class Pinned:
    """Weights that an engine holds: the policy's version when they were brought over, and their fingerprint."""

    version: int
    fingerprint: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Held:
    """What a place in the engine holds: the fingerprint of the weights, and the reading they gave."""

    weights: tuple[float, ...]
    reading: Reading


_BASE = -1  # the place of the base model as the engine first loaded it
_MERGED = 0


def _fingerprint(policy: LanguageModelPolicy) -> list[float]:
    """Sums of the trainable tensors in float64: any change shows, also one that raised no version."""
    return torch.stack([p.detach().sum(dtype=torch.float64) for p in policy.parameters()]).tolist()


@torch.no_grad()
def _probe_logprobs(policy: LanguageModelPolicy, probe: Sequence[int]) -> Tensor:
    ids = torch.tensor([probe], device=policy.device)
    positions = torch.arange(len(probe), device=policy.device).unsqueeze(0)
    return _logprobs(policy.logits(ids, torch.ones_like(ids), positions, keep=len(probe)), ids)


def _logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities (L - 1,) float32 of all of ``ids`` (1, L) but the first, under raw ``logits`` (1, L, V)."""
    return logits[0, :-1].float().log_softmax(-1).gather(-1, ids[0, 1:, None]).squeeze(-1).cpu()


def _check(policies: Sequence[LanguageModelPolicy], sync: Sync | None) -> list[int]:
    """The ranks of the policies' adapters; empty unless every policy is one."""
    if not policies:
        raise UsageError("An engine needs the policies that it will sample for; got none.")
    ranks = [policy.rank for policy in policies if policy.rank is not None]
    if sync == "adapter" and len(ranks) < len(policies):
        raise UsageError("sync='adapter' needs policies that are LoRA adapters (`lora_policies`). Use sync='merged'.")
    return ranks if len(ranks) == len(policies) else []


def _import_vllm() -> Any:
    """vLLM, told to run in this process; that is read when an engine is made."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        import vllm
    except ImportError as error:
        raise UsageError(
            "VLLMEngine needs vLLM: `pip install vllm` on a machine with a GPU. On a CPU see docs/performance.md."
        ) from error
    return vllm
