"""Samples of different lengths as tensors for forward passes, dealt out to optimizer steps and micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from waltz_env.algorithms.processes import Processes
from waltz_env.algorithms.protocols import Policy, Sample

_POSITIONS = 512  # positions whose probabilities exist at a time where entropy is computed
_IN_CACHE = 2**20  # probabilities that stay in the cache of a processor
_PASS = 400  # padded tokens that take about as long as one forward pass more


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of one forward pass: each a prompt and its completion, padded on the right to L.

    Attributes:
        rows: index of each row in the samples, (B,) int64, on the CPU.
        input_ids: token ids, (B, L) int64.
        attention_mask: 1 on real tokens, (B, L) int64.
        position_ids: position in the row, (B, L) int64.
        targets: ids of the sampled tokens, (B, T) int64.
        mask: true on sampled tokens, (B, T) bool; there are M.
        reads: true on the positions before sampled tokens, whose logits predict these, (B, K) bool, of the last K
            positions. Positions and tokens are in the same order: those of ``reads`` predict those of ``mask``.

    A pass that only keeps other processes company has no ``rows``, and one row of two tokens in the other fields.
    """

    rows: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    targets: Tensor
    mask: Tensor
    reads: Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step.

    Attributes:
        batches: micro-batches of this process.
        rows: number of rows over all processes.
        tokens: number of sampled tokens over all processes.
    """

    batches: list[MicroBatch]
    rows: int
    tokens: int


def deal(
    samples: Sequence[Sample],
    *,
    minibatches: int,
    tokens_per_microbatch: int,
    device: torch.device,
    processes: Processes,
) -> list[Step]:
    """Deal the samples of this process out to the optimizer steps of one epoch, and cut each step into micro-batches.

    Sample i goes to step i mod ``minibatches``, as cards are dealt. Every process deals its own samples, and a step
    holds one hand of each process; their sizes are gathered because the loss of a step is a mean over all of them. A
    step that is empty everywhere is left out. One that is empty only here stays, with no micro-batch: this process then
    contributes zero gradients, since the others wait for it. Where processes must make the same number of passes, it
    gets micro-batches without rows.
    """
    hands = [range(first, len(samples), minibatches) for first in range(minibatches)]
    lengths = [[len(samples[i].prompt_ids) + len(samples[i].token_ids) for i in hand] for hand in hands]
    groups = [microbatches(each, tokens_per_microbatch) for each in lengths]
    sizes = [
        (len(hand), sum(len(samples[i].token_ids) for i in hand), len(of_hand))
        for hand, of_hand in zip(hands, groups, strict=True)
    ]
    sizes_everywhere = processes.gather([sizes])  # [process][step] -> (rows, tokens, micro-batches)
    steps = []
    for hand, of_hand, of_step in zip(hands, groups, zip(*sizes_everywhere, strict=True), strict=True):
        batches = [collate(samples, [hand[i] for i in group], device=device) for group in of_hand]
        rows, tokens, passes = zip(*of_step, strict=True)
        if processes.in_step:
            batches += [without_rows(device)] * (max(passes) - len(batches))
        steps.append(Step(batches, sum(rows), sum(tokens)))
    return [step for step in steps if step.rows]


def batches_of(steps: Sequence[Step]) -> Iterator[MicroBatch]:
    """The micro-batches of all steps."""
    return (batch for step in steps for batch in step.batches)


def microbatches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group rows of similar length so that each group pads to at most ``budget`` tokens, and all of them to few.

    Args:
        lengths: number of tokens per row.
        budget: largest number of tokens in a group, padding included. A row that exceeds it is a group by itself.

    Returns:
        Indices into ``lengths``, each exactly once, shortest rows first: of all such groups those with the fewest
        padded tokens, where each group counts as ``_PASS`` tokens more.

    >>> microbatches([900, 30, 20], budget=10_000)
    [[2, 1], [0]]
    >>> microbatches([900, 30, 20], budget=50)
    [[2], [1], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    # costs[n]: the least cost of the n shortest rows; starts[n]: where the last of their groups begins. That group is
    # as wide as its last row.
    costs, starts = np.zeros(len(order) + 1, dtype=np.int64), np.zeros(len(order) + 1, dtype=np.int64)
    for end, i in enumerate(order, start=1):
        first = end - max(1, min(end, budget // max(1, lengths[i])))
        totals = costs[first:end] + lengths[i] * np.arange(end - first, 0, -1) + _PASS
        starts[end] = first + totals.argmin()
        costs[end] = totals.min()
    groups: list[list[int]] = []
    end = len(order)
    while end:
        groups.insert(0, order[starts[end] : end])
        end = int(starts[end])
    return groups


def collate(samples: Sequence[Sample], rows: Sequence[int], *, device: torch.device) -> MicroBatch:
    """Stack ``samples[i] for i in rows``."""
    chosen = [samples[i] for i in rows]
    starts = torch.tensor([len(sample.prompt_ids) for sample in chosen]).unsqueeze(1)
    ends = starts + torch.tensor([len(sample.token_ids) for sample in chosen]).unsqueeze(1)
    ids, targets = (
        nn.utils.rnn.pad_sequence([torch.tensor(row) for row in several], batch_first=True)
        for several in (
            [sample.prompt_ids + sample.token_ids for sample in chosen],
            [sample.token_ids for sample in chosen],
        )
    )
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    # The logits BEFORE a token predict it: one position earlier.
    reads = (starts - 1 <= positions) & (positions < ends - 1)
    return MicroBatch(
        rows=torch.tensor(rows),
        input_ids=ids.to(device),
        attention_mask=(positions < ends).long().to(device),
        position_ids=positions.to(device),
        targets=targets.to(device),
        mask=(torch.arange(targets.shape[1]) < ends - starts).to(device),
        reads=reads[:, int(starts.min()) - 1 :].to(device),
    )


def without_rows(device: torch.device) -> MicroBatch:
    """A micro-batch for a pass that only keeps other processes company."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=device)
    return MicroBatch(
        rows=torch.zeros(0, dtype=torch.long),
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        position_ids=torch.arange(2, device=device).unsqueeze(0),
        targets=ids[:, 1:],
        mask=torch.zeros(1, 1, dtype=torch.bool, device=device),
        reads=torch.zeros(1, 1, dtype=torch.bool, device=device),
    )


def pad(rows: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    """Rows of numbers, padded on the right with 0: values (N, T) float32 and mask (N, T) bool."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    mask = torch.arange(max(map(len, rows), default=0))[None, :] < lengths[:, None]
    values = torch.zeros(mask.shape)
    values[mask] = torch.tensor([value for row in rows for value in row], dtype=values.dtype)
    return values, mask


def completion_logits(policy: Policy, batch: MicroBatch, *, reference: bool = False) -> Tensor:
    """Logits of the distribution that each token was sampled from, temperature included: (M, V) float32."""
    keep = batch.reads.shape[1]
    logits = policy.logits(batch.input_ids, batch.attention_mask, batch.position_ids, keep=keep, reference=reference)
    return at_temperature(logits[batch.reads], policy.temperature)


def at_temperature(logits: Tensor, temperature: float) -> Tensor:
    """``logits / temperature`` in float32."""
    return logits.float() if temperature == 1.0 else logits.float() / temperature


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities (M,) of ``targets`` (M,) under ``logits`` (M, V), without an (M, V) copy of them."""
    logprobs: Tensor = _TokenLogprobs.apply(logits, targets)  # type: ignore[no-untyped-call]
    return logprobs


class _TokenLogprobs(torch.autograd.Function):
    """The gradient of the logits is the only (M, V) tensor that the backward pass makes; autograd would make three."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        normalizer = logits.logsumexp(-1)
        ctx.save_for_backward(logits, targets, normalizer)
        return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - normalizer

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, targets, normalizer = ctx.saved_tensors
        column = gradient.unsqueeze(-1)
        of_logits = (logits - normalizer.unsqueeze(-1)).exp_().mul_(-column)
        return of_logits.scatter_add_(-1, targets.unsqueeze(-1), column), None


@torch.no_grad()
def token_entropy(logits: Tensor) -> Tensor:
    """Entropy (M,) in nats of ``logits`` (M, V); the probabilities of a few positions exist at a time."""
    on_processor = logits.device.type == "cpu"
    positions = max(1, min(_POSITIONS, _IN_CACHE // logits.shape[-1])) if on_processor else _POSITIONS
    entropy = [part.logsumexp(-1) - (part.softmax(-1) * part).sum(-1) for part in logits.detach().split(positions)]
    return torch.cat(entropy)
