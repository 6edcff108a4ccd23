"""A vLLM engine in this process that samples for every policy on one base model and checks which weights it holds."""

from __future__ import annotations

import copy
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from waltz_env.agents.engines import NEEDS_VLLM
from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.agents.sampling import RowSampling, Sampled, diverged
from waltz_env.agents.sync_check import Reading, SyncReport, compare, verify
from waltz_env.agents.weight_probe import (
    TOLERANCE,
    Sync,
    adapter_ranks,
    base_logprobs,
    fingerprint,
    policy_logprobs,
    probe_of,
)
from waltz_env.errors import SyncError, UsageError
from waltz_env.lock_step import Joint

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the sizes that vLLM can reserve
_PREFILL_TOKENS = 4096  # fewest tokens that a step on a CPU must have room for


def max_lora_rank(ranks: Sequence[int]) -> int:
    """The smallest ``max_lora_rank`` of vLLM that has room for adapters of these ranks."""
    return next((rank for rank in _LORA_RANKS if rank >= max(ranks, default=0)), _LORA_RANKS[-1])


class VLLMEngine:
    """Continuous batching by vLLM, for policies whose weights change.

    Each call of ``generate`` first calls ``sync``, which makes sure that the engine holds the policy's current weights,
    whatever changed them. There are two ways to send weights to the engine:

    * ``"adapter"`` sends the LoRA adapter alone, a few MB, as a LoRA request of vLLM; the base stays. Both roles live
      side by side in the engine. Every version has a name of its own, which is part of the key of vLLM's prefix cache.
    * ``"merged"`` copies all weights, with the adapter merged into the base, from memory to memory, and empties the
      prefix cache. Two roles take turns. It is the faster way on a CPU, where vLLM's LoRA kernels are slow, and the
      only way for policies without an adapter.

    After each sync, trainer and engine read the same tokens. If the new weights did not arrive, that is an error; see
    ``sync_check``.

    vLLM runs inside this process (``VLLM_ENABLE_V1_MULTIPROCESSING=0``), on one device; for more devices, serve the
    policy with vLLM's own server. The processes of a sharded policy each have an engine, which they all make at once.
    Sampling is from the full distribution, unless a request asks for less (top-p).

    Args:
        policies: all policies that the engine will sample for. They share one base, or at least its architecture and
            tokenizer.
        sync: way to send weights; None means ``"adapter"`` on a GPU if all policies are adapters, otherwise
            ``"merged"``.
        dtype: dtype of the weights in the engine.
        max_model_len: largest number of tokens in prompt and completion together.
        max_num_seqs: number of completions that are generated at the same time.
        kv_cache_gib: memory for attention caches, in GiB.
        tolerance: mean absolute difference, in nats, that the check after a sync allows; None takes it from
            ``TOLERANCE``.
        options: extra arguments of ``vllm.LLM``; they override the engine's.

    Attributes:
        sync_mode: the way in which weights are sent.
        report: report of the latest sync; None before the first.
        syncs: number of syncs that sent weights.

    Raises:
        UsageError: there are no policies, they cannot be sent in this way, or vLLM is not installed.
        SyncError: even the base model has other log-probabilities in the engine than in the trainer.
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
        ranks = adapter_ranks(policies, sync)
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
        # Processes with a sharded policy sync their engines together, also while they play: they gather its weights.
        self._turns = {
            id(policy): Joint(partial(self._sync, policy)).turn if policy.sharded else nullcontext[None]
            for policy in policies
        }
        lora = {
            "enable_lora": True,
            "max_loras": len(policies),
            "max_cpu_loras": 2 * len(policies),
            "max_lora_rank": max_lora_rank(ranks),
        }
        on_cpu = {
            "enforce_eager": True,
            # vLLM 0.32 rewinds a request's random stream after each part of its prompt, which CPU generators cannot do.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(max_model_len, _PREFILL_TOKENS),
        }
        base = Path(self._folder.name) / "base"
        _write_base(first, base, dtype)
        settings: dict[str, Any] = {
            "dtype": str(dtype).removeprefix("torch."),
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "kv_cache_memory_bytes": int(kv_cache_gib * 2**30),
            "generation_config": "vllm",  # no sampling defaults of the model's own
            "logprobs_mode": "processed_logprobs",  # of logits / temperature, as the trainer computes them
            **({} if on_gpu else on_cpu),
            # An engine of its own for each process that torchrun has started; otherwise vLLM would start them.
            **({"distributed_executor_backend": "external_launcher"} if first.sharded else {}),
            **(lora if self.sync_mode == "adapter" else {}),
            **(options or {}),
        }
        self._llm = _import_vllm().LLM(model=str(base), **settings)
        shutil.rmtree(base)
        finalizer = getattr(self._llm.llm_engine.engine_core, "_finalizer", None)
        if first.sharded and finalizer is not None:  # it would end the connections of all processes, or fail after that
            finalizer.detach()
        self._close = weakref.finalize(self, _shut_down, None if first.sharded else self._llm, self._folder)
        self._probe = probe_of(first, max_model_len=max_model_len)
        self._held = self._base_reading(first)

    def generate(
        self,
        policy: LanguageModelPolicy,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: Sequence[RowSampling],
        stop_ids: Sequence[int],
        json_schema: Mapping[str, Any] | None = None,
        pinned: Pinned | None = None,
    ) -> list[Sampled]:
        """Continues each prompt with the policy's current weights, or with the weights that were pinned.

        Args:
            policy: one of the engine's policies.
            prompts: ids per row, of any length from 1.
            sampling: how each row is sampled, with a seed for each. Log-probabilities are those of
                ``logits / temperature``, of the tokens that top-p keeps.
            stop_ids: ids that end a completion; the stop token itself is kept.
            json_schema: JSON schema that every text follows. The log-probabilities are then those of the constrained
                distribution.
            pinned: weights that ``pin`` returned. The policy itself is then not read, and another thread may update it.

        Raises:
            UsageError: the policy is not one of the engine's.
            SyncError: the policy's weights did not reach the engine, or the pinned ones have been replaced.
            DivergedError: the engine computed log-probabilities that are NaN or infinite.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        if pinned is None:
            self.sync(policy)
        elif self._held[self._place(policy)].weights != pinned.fingerprint:
            raise SyncError("The engine no longer holds the pinned weights: others have been sent to it since.")
        parameters = [
            SamplingParams(
                temperature=row.temperature,
                top_p=row.top_p,
                seed=row.seed,
                max_tokens=row.limit,
                stop_token_ids=list(stop_ids),
                logprobs=0,  # for the sampled token alone
                flat_logprobs=True,
                detokenize=False,
                structured_outputs=StructuredOutputsParams(json=dict(json_schema)) if json_schema else None,
            )
            for row in sampling
        ]
        outputs = [output.outputs[0] for output in self._run(policy, prompts, parameters)]
        if not all(map(math.isfinite, chain.from_iterable(output.logprobs.logprobs for output in outputs))):
            raise diverged(policy.model)
        return [
            Sampled(tuple(output.token_ids), tuple(output.logprobs.logprobs), output.finish_reason == "stop")
            for output in outputs
        ]

    def sync(self, policy: LanguageModelPolicy) -> None:
        """Sends the policy's weights to the engine, unless it already holds them, and checks that they arrived.

        Raises:
            UsageError: the policy is not one of the engine's.
            SyncError: the weights did not arrive, or the engine computes something else with them.
        """
        if not any(policy is known for known in self._policies):
            raise UsageError("This engine was not made for that policy. Name it in `policies` when the engine is made.")
        with self._turns[id(policy)]():
            self._sync(policy)

    def _sync(self, policy: LanguageModelPolicy) -> None:
        place = self._place(policy)
        before = self._held.get(place, self._held[_BASE])
        weights = fingerprint(policy)
        if before.weights == weights:
            return
        self._held[place] = _Held((), before.reading)  # until the check has passed, the engine holds nothing for sure
        self._bring_adapter(policy) if self.sync_mode == "adapter" else self._bring_merged(policy)
        reading = Reading(policy_logprobs(policy, self._probe), self._engine_logprobs(policy))
        self.report = compare(before.reading, reading, resolution=torch.finfo(self._dtype).eps)
        verify(self.report, tolerance=self.tolerance)
        self._held[place] = _Held(weights, reading)
        self.syncs += 1

    def pin(self, policy: LanguageModelPolicy) -> Pinned:
        """Sends the policy's weights to the engine, so that it can sample from them while the policy changes.

        The engine keeps them until the policy is synced or pinned again.

        Raises:
            UsageError: the policy is not one of the engine's, or several policies take turns in it (``"merged"``).
            SyncError: the weights did not arrive.
        """
        if self.sync_mode == "merged" and len(self._policies) > 1:
            raise UsageError(
                "An engine with sync='merged' holds the weights of one policy at a time, so two roles cannot go on "
                "while their policies are updated. Use sync='adapter', or an engine for each policy."
            )
        self.sync(policy)
        return Pinned(policy.version, self._held[self._place(policy)].weights)

    def close(self) -> None:
        """Frees the engine's memory and files; so does dropping it. It cannot be used after that."""
        self._close()

    def _place(self, policy: LanguageModelPolicy) -> int:
        """Key of the policy's weights in ``_held``: adapters lie side by side, merged weights replace each other."""
        return id(policy) if self.sync_mode == "adapter" else _MERGED

    def _run(self, policy: LanguageModelPolicy | None, prompts: Sequence[Sequence[int]], parameters: Any) -> list[Any]:
        request = self._requests.get(id(policy))
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return self._llm.generate(inputs, parameters, use_tqdm=False, lora_request=request)

    def _bring_merged(self, policy: LanguageModelPolicy) -> None:
        weights = policy.plain_weights(self._dtype)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self._llm.reset_prefix_cache()

    def _bring_adapter(self, policy: LanguageModelPolicy) -> None:
        """Sends the adapter under a new name and number, so that no cache of vLLM's can serve an old one."""
        from vllm.lora.request import LoRARequest

        number = next(self._numbers)
        folder = Path(self._folder.name) / f"adapter-{number}"
        policy.save(folder, tokenizer=False)
        old = self._requests.pop(id(policy), None)
        if old is not None:  # remove it first, or the new one might push out the other role's adapter
            self._llm.llm_engine.remove_lora(old.lora_int_id)
            shutil.rmtree(old.lora_path)
        request = LoRARequest(folder.name, number, str(folder))
        self._llm.llm_engine.add_lora(request)
        if number not in self._llm.llm_engine.list_loras():
            raise SyncError(f"vLLM did not load {folder.name}: it holds {self._llm.llm_engine.list_loras()}.")
        self._requests[id(policy)] = request

    def _engine_logprobs(self, policy: LanguageModelPolicy | None) -> Tensor:
        """Log-probabilities of the probe's tokens except the first, as the engine computes them now."""
        from vllm import SamplingParams

        parameters = SamplingParams(max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False)
        (output,) = self._run(policy, [self._probe], parameters)
        return torch.tensor(output.prompt_logprobs.logprobs)

    def _base_reading(self, policy: LanguageModelPolicy) -> dict[int, _Held]:
        reading = Reading(base_logprobs(policy, self._probe), self._engine_logprobs(None))
        verify(compare(reading, reading, resolution=0.0), tolerance=self.tolerance)
        return {_BASE: _Held((), reading)}


@dataclass(frozen=True, slots=True)
class Pinned:
    """Weights that an engine keeps: the policy's version when they were sent, and their fingerprint."""

    version: int
    fingerprint: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Held:
    """What the engine holds under one key: a fingerprint of the weights, and the reading that they gave."""

    weights: tuple[float, ...]
    reading: Reading


# Keys of `_held` beside the ids of policies: the base as the engine first loaded it, and merged weights.
_BASE = -1
_MERGED = 0


def _write_base(policy: LanguageModelPolicy, folder: Path, dtype: torch.dtype) -> None:
    """The model without its adapter, in a folder. Of a sharded one, ``save_pretrained`` writes in one process alone."""
    if not policy.sharded:
        policy.save_merged(folder, dtype=dtype, adapter=False)
        return
    weights = {name: weight.cpu().contiguous() for name, weight in policy.plain_weights(dtype, adapter=False)}
    config = copy.deepcopy(policy.model.config)
    config.dtype = dtype
    config.architectures = [type(policy.model).__name__.removeprefix("FSDP")]
    config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    policy.tokenizer.save_pretrained(folder)


def _shut_down(llm: Any | None, folder: tempfile.TemporaryDirectory[str]) -> None:
    if llm is not None:  # None beside a sharded policy, where vLLM would end the connections of all processes
        llm.llm_engine.engine_core.shutdown()
    folder.cleanup()


def _import_vllm() -> Any:
    """The vLLM module, told to run in this process; vLLM reads that when an engine is made."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        import vllm
    except ImportError as error:
        raise UsageError(NEEDS_VLLM) from error
    return vllm
