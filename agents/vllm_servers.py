"""Several running vLLM servers as one engine, for policies whose weights change."""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import tempfile
import time
import uuid
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.agents.sampling import RowSampling, Sampled, diverged
from waltz_env.agents.sync_check import Reading, SyncReport, compare, verify
from waltz_env.agents.vllm_engine import Pinned
from waltz_env.agents.vllm_server import VLLMServer
from waltz_env.agents.weight_probe import (
    TOLERANCE,
    adapter_ranks,
    base_logprobs,
    fingerprint,
    policy_logprobs,
    probe_of,
)
from waltz_env.errors import AgentError, SyncError, UsageError
from waltz_env.lock_step import Joint
from waltz_env.loop_thread import LoopThread
from waltz_env.server_client import ServerError

logger = logging.getLogger(__name__)

_CHECKED_TOKENS = 8


class VLLMServers:
    """Running vLLM servers of one base model, which share the completions of every call. Used like ``VLLMEngine``.

    Start each of them with ``--enable-lora --max-loras 2`` and ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`` in its
    environment, on as many devices as vLLM supports. Before a server samples for a policy, it gets the policy's adapter
    under a new name, and the check of ``sync_check`` follows. The old adapter is unloaded.

    A server that fails, or that answers no health check for a while, is taken out of rotation, and other servers do
    its work. Once it answers again, its base model is checked, and it gets the adapters before it is used.

    Args:
        policies: all policies that the servers will sample for, LoRA adapters on one base.
        urls: addresses, such as ``http://127.0.0.1:8000``.
        dtype: dtype that the servers compute in, for the checks' tolerance.
        max_concurrent: largest number of completions in flight on one server.
        timeout: seconds that one completion may take.
        patience: seconds after which a server that is at work and answers no health check counts as failed.
        retry_after: seconds after which a server that failed is asked whether it is back.
        tolerance: as in ``VLLMEngine``.

    Attributes:
        max_model_len: largest number of tokens in prompt and completion together, on every server.
        report: report of the latest sync of any server; None before the first.
        syncs: number of times that a server got new weights.

    Raises:
        UsageError: a policy is not an adapter, a server does not answer, or it was started without something needed.
        SyncError: a server's base model gives other log-probabilities than the policies' base.
    """

    def __init__(
        self,
        policies: Sequence[LanguageModelPolicy],
        urls: Sequence[str],
        *,
        dtype: torch.dtype = torch.bfloat16,
        max_concurrent: int = 64,
        timeout: float = 300.0,
        patience: float = 30.0,
        retry_after: float = 10.0,
        tolerance: float | None = None,
    ) -> None:
        adapter_ranks(policies, "adapter")
        self.max_concurrent = max_concurrent
        self.tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
        self.report: SyncReport | None = None
        self.syncs = 0
        self._policies = tuple(policies)
        self._resolution = torch.finfo(dtype).eps
        self._folder = tempfile.TemporaryDirectory(prefix="waltz-adapters-", ignore_cleanup_errors=True)
        self._names = (f"waltz-{uuid.uuid4().hex[:12]}-{number}" for number in count(1))
        self._sent: dict[int, _Weights] = {}
        self._turns = {  # as in ``VLLMEngine``
            id(policy): Joint(partial(self._measured, policy)).turn if policy.sharded else nullcontext[None]
            for policy in policies
        }
        self._loop = LoopThread()
        self._members = [_Member(VLLMServer(url, timeout=timeout, patience=patience), retry_after) for url in urls]
        self._close = weakref.finalize(self, _leave, self._loop, self._members, self._folder)
        try:
            served = self._loop.run(self._first_contact())
        except ServerError as error:
            raise UsageError(f"{error} Start it, or name other servers.") from error
        self.max_model_len = min(served)
        self._probe = probe_of(policies[0], max_model_len=self.max_model_len)
        self._base = base_logprobs(policies[0], self._probe)
        for member in self._members:
            self._loop.run(self._meet(member))

    @property
    def in_rotation(self) -> list[str]:
        """Addresses of the servers that are used now."""
        return [member.server.url for member in self._members if member.failure is None]

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

        The arguments are those of ``VLLMEngine.generate``.

        Raises:
            UsageError: the policy is not one of these, or a server was started without something needed.
            SyncError: the policy's weights did not reach a server, or the pinned ones have been replaced.
            AgentError: no server is left.
            DivergedError: a server computed log-probabilities that are NaN or infinite.
        """
        weights = self._weights(policy) if pinned is None else self._sent.get(id(policy))
        if weights is None or (pinned is not None and weights.fingerprint != pinned.fingerprint):
            raise SyncError("The servers no longer hold the pinned weights: others have been sent to them since.")
        job = _Job(prompts, sampling, stop_ids, json_schema, deque(range(len(prompts))))
        self._loop.run(self._finish(job, id(policy), weights))
        results = [job.results[row] for row in range(len(prompts))]
        if not all(map(math.isfinite, chain.from_iterable(result.logprobs for result in results))):
            raise diverged(policy.model)
        return results

    def pin(self, policy: LanguageModelPolicy) -> Pinned:
        """Sends the policy's weights to the servers, so that they can sample from them while the policy changes.

        They keep them until the policy is used or pinned again.

        Raises:
            UsageError, SyncError, AgentError: as in ``generate``.
        """
        weights = self._weights(policy)
        self._loop.run(self._ready(id(policy), weights))
        return Pinned(policy.version, weights.fingerprint)

    def close(self) -> None:
        """Unloads the adapters and closes the connections; so does dropping this. The servers go on running."""
        self._close()

    def _weights(self, policy: LanguageModelPolicy) -> _Weights:
        """The policy's current weights, written for the servers and measured, unless they have been already."""
        if not any(policy is known for known in self._policies):
            raise UsageError("These servers were not told of that policy. Name it in `policies` at the start.")
        with self._turns[id(policy)]():
            return self._measured(policy)

    def _measured(self, policy: LanguageModelPolicy) -> _Weights:
        now, sent = fingerprint(policy), self._sent.get(id(policy))
        if sent is not None and sent.fingerprint == now:
            return sent
        name = next(self._names)
        folder = Path(self._folder.name) / name
        policy.save(folder, tokenizer=False)
        weights = _Weights(name, folder, now, policy_logprobs(policy, self._probe))
        self._sent[id(policy)] = weights
        if sent is not None:
            shutil.rmtree(sent.folder)
        return weights

    async def _first_contact(self) -> list[int]:
        served = [await member.server.served() for member in self._members]
        for member, (name, _) in zip(self._members, served, strict=True):
            member.base_name = name
        return [length for _, length in served]

    async def _meet(self, member: _Member) -> None:
        """Check the base model of a server that is new or was away, and forget what it held."""
        server, member.held = member.server, {}
        member.base_name, _ = await server.served()
        reading = Reading(self._base, await server.prompt_logprobs(member.base_name, self._probe))
        verify(compare(reading, reading, resolution=0.0), tolerance=self.tolerance)
        member.base = reading
        for temperature in {policy.temperature for policy in self._policies} - {1.0}:
            await self._check_temperature(member, temperature)

    async def _check_temperature(self, member: _Member, temperature: float) -> None:
        """Check that log-probabilities of samples are those of the temperature: then they differ from raw ones."""
        prompt = self._probe[: len(self._probe) - _CHECKED_TOKENS]
        row = RowSampling(temperature, 1.0, _CHECKED_TOKENS, 0)
        sampled = await member.server.complete(member.base_name, prompt, row=row, stop_ids=())
        raw = await member.server.prompt_logprobs(member.base_name, [*prompt, *sampled.token_ids])
        there = torch.tensor(sampled.logprobs)
        if (there - raw[-len(there) :]).abs().max() < 1e-3:
            raise UsageError(
                f"The vLLM server at {member.server.url} gives log-probabilities of temperature 1, and the policy "
                f"samples at {temperature:g}. Start the server with --logprobs-mode processed_logprobs."
            )

    async def _ready(self, key: int, weights: _Weights) -> list[_Member]:
        """The servers in rotation, with these weights; those that failed earlier come back if they can."""
        bringing = [self._bring(member, key, weights) for member in self._members]
        for outcome in await asyncio.gather(*bringing, return_exceptions=True):  # nothing goes on after an error
            if outcome is not None:
                raise outcome
        ready = [member for member in self._members if member.failure is None]
        if not ready:
            reasons = " ".join(str(member.failure) for member in self._members)
            raise AgentError(f"No vLLM server is left. {reasons}", kind="unavailable")
        return ready

    async def _bring(self, member: _Member, key: int, weights: _Weights) -> None:
        """Send the weights to one server and check that they arrived, unless it holds them."""
        was_out = member.failure is not None
        if was_out and time.monotonic() < member.try_again:
            return
        try:
            if was_out:
                stale = [held.name for held in member.held.values()]
                await self._meet(member)
                for name in stale:
                    await member.server.unload(name)
            await self._send(member, key, weights)
        except ServerError as error:
            member.take_out(error)
        except (SyncError, UsageError) as error:
            if not was_out:
                raise
            member.take_out(error)
        else:
            if was_out:
                logger.warning("The vLLM server at %s is back.", member.server.url)
                member.failure = None

    async def _send(self, member: _Member, key: int, weights: _Weights) -> None:
        held = member.held.get(key)
        if held is not None and held.name == weights.name:
            return
        before = member.base if held is None else held.reading
        if held is not None:  # first, or the new one might push out the other role's adapter
            await member.server.unload(held.name)
            del member.held[key]
        await member.server.load(weights.name, weights.folder)
        reading = Reading(weights.trainer, await member.server.prompt_logprobs(weights.name, self._probe))
        self.report = compare(before, reading, resolution=self._resolution)
        verify(self.report, tolerance=self.tolerance)
        member.held[key] = _Held(weights.name, reading)
        self.syncs += 1

    async def _finish(self, job: _Job, key: int, weights: _Weights) -> None:
        """Have the servers do all rows of the job; what a failing server leaves is done by the others."""
        while job.waiting:
            members = await self._ready(key, weights)
            slots = min(self.max_concurrent, math.ceil(len(job.waiting) / len(members)))
            await asyncio.gather(*(self._work(member, job, weights.name, slots) for member in members))

    async def _work(self, member: _Member, job: _Job, name: str, slots: int) -> None:
        """Have one server take rows until none is left, or until it fails; its unfinished rows then wait again."""
        taken: set[int] = set()

        async def work() -> None:
            while job.waiting:
                row = job.waiting.popleft()
                taken.add(row)
                job.results[row] = await member.server.complete(
                    name,
                    job.prompts[row],
                    row=job.sampling[row],
                    stop_ids=job.stop_ids,
                    json_schema=job.json_schema,
                )
                taken.discard(row)

        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(member.server.watch())
                await asyncio.wait([group.create_task(work()) for _ in range(slots)])
                watch.cancel()
        except* ServerError as errors:
            job.waiting.extend(taken)
            member.take_out(errors.exceptions[0])


def _leave(loop: LoopThread, members: Sequence[_Member], folder: tempfile.TemporaryDirectory[str]) -> None:
    async def leave() -> None:
        for member in members:
            try:
                for held in member.held.values() if member.failure is None else ():
                    await member.server.unload(held.name)
            except ServerError as error:
                logger.info("%s", error)  # it took its adapters with it
            await member.server.close()

    loop.run(leave())
    loop.close()
    folder.cleanup()


@dataclass(frozen=True, slots=True)
class _Weights:
    """A policy's weights as they are sent: a name, a folder, a fingerprint, and the trainer's reading of the probe."""

    name: str
    folder: Path
    fingerprint: tuple[float, ...]
    trainer: Tensor


@dataclass(frozen=True, slots=True)
class _Held:
    """An adapter that a server holds, and the reading that it gave."""

    name: str
    reading: Reading


class _Member:
    """A server, what it holds for each policy, and why it is out of rotation, if it is."""

    def __init__(self, server: VLLMServer, retry_after: float) -> None:
        self.server = server
        self.retry_after = retry_after
        self.base_name = ""
        self.base = Reading(torch.empty(0), torch.empty(0))
        self.held: dict[int, _Held] = {}
        self.failure: BaseException | None = None
        self.try_again = 0.0

    def take_out(self, failure: BaseException) -> None:
        """Take the server out of rotation for a while."""
        if self.failure is None:
            logger.warning("%s It is out of rotation until it answers again.", failure)
        self.failure = failure
        self.try_again = time.monotonic() + self.retry_after


@dataclass(frozen=True, slots=True)
class _Job:
    """The rows of one call: those that wait for a server, and the results so far."""

    prompts: Sequence[Sequence[int]]
    sampling: Sequence[RowSampling]
    stop_ids: Sequence[int]
    json_schema: Mapping[str, Any] | None
    waiting: deque[int]
    results: dict[int, Sampled] = field(default_factory=dict)
