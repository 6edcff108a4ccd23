"""Rows of different lengths as tensors, and the log-probabilities that a policy gives to their sampled tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from waltz_env.algorithms.protocols import Policy, Sample


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows ready for one forward pass: prompts padded on the left to P, completions on the right to T; L = P + T.

    Attributes:
        rows: where each row stands in the samples, (B,) int64, on the CPU.
        input_ids: (B, L) int64.
        attention_mask: (B, L) int64, 1 on real tokens.
        position_ids: (B, L) int64, counted from each row's first real token.
        targets: ids of the sampled tokens, (B, T) int64.
        mask: (B, T) bool, true on sampled tokens.
    """

    rows: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    targets: Tensor
    mask: Tensor


def microbatches(lengths: Sequence[tuple[int, int]], budget: int) -> list[list[int]]:
    """Groups rows of similar length so that each group pads to at most ``budget`` tokens.

    Args:
        lengths: (P, T) of each row: tokens of its prompt and of its completion.
        budget: tokens of a group, padding included. A row that exceeds it alone is a group by itself.

    Returns:
        Indices into ``lengths``, every one exactly once, shortest rows first.

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


def collate(samples: Sequence[Sample], rows: Sequence[int], *, device: torch.device) -> Batch:
    """Stacks ``samples[i] for i in rows``."""
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
    return Batch(
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


def completion_logits(policy: Policy, batch: Batch, *, reference: bool = False) -> Tensor:
    """Logits of the distribution that each token was sampled from, temperature included: (B, T, V) float32."""
    keep = batch.targets.shape[1] + 1
    logits = policy.logits(batch.input_ids, batch.attention_mask, batch.position_ids, keep=keep, reference=reference)
    logits = logits[:, :-1].float()
    return logits if policy.temperature == 1.0 else logits / policy.temperature


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities (B, T) of ``targets`` (B, T) under ``logits`` (B, T, V), without a (B, T, V) copy of them."""
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


@torch.no_grad()
def token_entropy(logits: Tensor) -> Tensor:
    """Entropy (B, T) in nats of ``logits`` (B, T, V); the probabilities of one row exist at a time."""
    entropy = [row.logsumexp(-1) - (row.softmax(-1) * row).sum(-1) for row in logits.detach()]
    return torch.stack(entropy)
