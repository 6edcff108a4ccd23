"""Samples of different lengths as tensors for forward passes, dealt out to optimizer steps and micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from waltz_env.algorithms.processes import Processes
from waltz_env.algorithms.protocols import Policy, Sample


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of one forward pass: prompts padded on the left to P, completions on the right to T; L = P + T.

    Attributes:
        rows: index of each row in the samples, (B,) int64, on the CPU.
        input_ids: token ids, (B, L) int64.
        attention_mask: 1 on real tokens, (B, L) int64.
        position_ids: position counted from each row's first real token, (B, L) int64.
        targets: ids of the sampled tokens, (B, T) int64.
        mask: true on sampled tokens, (B, T) bool.
    """

    rows: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    targets: Tensor
    mask: Tensor


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
    contributes zero gradients, since the others wait for it.
    """
    hands = [range(first, len(samples), minibatches) for first in range(minibatches)]
    sizes = [(len(hand), sum(len(samples[i].token_ids) for i in hand)) for hand in hands]
    sizes_everywhere = processes.gather([sizes])  # [process][step] -> (rows, tokens)
    steps = []
    for hand, of_step in zip(hands, zip(*sizes_everywhere, strict=True), strict=True):
        lengths = [(len(samples[i].prompt_ids), len(samples[i].token_ids)) for i in hand]
        batches = [
            collate(samples, [hand[i] for i in group], device=device)
            for group in microbatches(lengths, tokens_per_microbatch)
        ]
        rows, tokens = (sum(column) for column in zip(*of_step, strict=True))
        steps.append(Step(batches, rows, tokens))
    return [step for step in steps if step.rows]


def batches_of(steps: Sequence[Step]) -> Iterator[MicroBatch]:
    """The micro-batches of all steps."""
    return (batch for step in steps for batch in step.batches)


def microbatches(lengths: Sequence[tuple[int, int]], budget: int) -> list[list[int]]:
    """Group rows of similar length so that each group pads to at most ``budget`` tokens.

    Args:
        lengths: (P, T) per row: number of tokens of its prompt and of its completion.
        budget: largest number of tokens in a group, padding included. A row that exceeds it is a group by itself.

    Returns:
        Indices into ``lengths``, each exactly once, shortest rows first.

    >>> microbatches([(9, 9), (1, 2), (2, 1)], budget=8)
    [[1, 2], [0]]
    """
    groups: list[list[int]] = []
    longest = (0, 0)
    for i in sorted(range(len(lengths)), key=lambda i: sum(lengths[i])):
        wider = (max(longest[0], lengths[i][0]), max(longest[1], lengths[i][1]))
        if groups and (len(groups[-1]) + 1) * sum(wider) <= budget:
            groups[-1].append(i)
            longest = wider
        else:
            groups.append([i])
            longest = lengths[i]
    return groups


def collate(samples: Sequence[Sample], rows: Sequence[int], *, device: torch.device) -> MicroBatch:
    """Stack ``samples[i] for i in rows``."""
    chosen = [samples[i] for i in rows]
    prompt = max(len(sample.prompt_ids) for sample in chosen)
    length = prompt + max(len(sample.token_ids) for sample in chosen)
    ids = torch.zeros(len(chosen), length, dtype=torch.long)
    attention = torch.zeros_like(ids)
    for row, sample in enumerate(chosen):
        start, end = prompt - len(sample.prompt_ids), prompt + len(sample.token_ids)
        ids[row, start:end] = torch.tensor(sample.prompt_ids + sample.token_ids)
        attention[row, start:end] = 1
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    return MicroBatch(
        rows=torch.tensor(rows),
        input_ids=ids.to(device),
        attention_mask=attention.to(device),
        position_ids=positions.to(device),
        targets=ids[:, prompt:].to(device),
        mask=attention[:, prompt:].bool().to(device),
    )


def pad(rows: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    """Rows of numbers, padded on the right with 0: values (N, T) float32 and mask (N, T) bool."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    mask = torch.arange(max(map(len, rows), default=0))[None, :] < lengths[:, None]
    values = torch.zeros(mask.shape)
    values[mask] = torch.tensor([value for row in rows for value in row], dtype=values.dtype)
    return values, mask


def completion_logits(policy: Policy, batch: MicroBatch, *, reference: bool = False) -> Tensor:
    """Logits of the distribution that each token was sampled from, temperature included: (B, T, V) float32."""
    keep = batch.targets.shape[1] + 1  # the logits BEFORE a token predict it: one position earlier, the last unused
    logits = policy.logits(batch.input_ids, batch.attention_mask, batch.position_ids, keep=keep, reference=reference)
    return at_temperature(logits[:, :-1], policy.temperature)


def at_temperature(logits: Tensor, temperature: float) -> Tensor:
    """``logits / temperature`` in float32."""
    return logits.float() if temperature == 1.0 else logits.float() / temperature


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities (B, T) of ``targets`` (B, T) under ``logits`` (B, T, V), without a (B, T, V) copy of them."""
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


@torch.no_grad()
def token_entropy(logits: Tensor) -> Tensor:
    """Entropy (B, T) in nats of ``logits`` (B, T, V); the probabilities of only one row exist at a time."""
    entropy = [row.logsumexp(-1) - (row.softmax(-1) * row).sum(-1) for row in logits.detach()]
    return torch.stack(entropy)
