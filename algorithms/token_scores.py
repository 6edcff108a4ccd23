"""What a policy makes of sampled tokens, such as their log-probabilities, without all logits in memory at once.

With a large vocabulary the logits (B, T, V) are by far the largest tensors of an update: for 16 completions of 256
tokens and a vocabulary of 128,000 they take 2 GB in float32, and several copies are alive at once. Where there are more
than a few, the output head reads the positions before sampled tokens alone, at most ``logits_at_once`` logits at a time
and, if that takes several times, once more in the backward pass (arXiv:1604.06174). The results are the same up to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from waltz_env.algorithms.batches import MicroBatch, at_temperature, completion_logits
from waltz_env.algorithms.protocols import Policy, SeparablePolicy

_FEW = 2**22  # logits that are not worth a call of the output head by itself

Score = Callable[[Tensor, Tensor], Tensor]
"""From logits (M, V) float32 and the sampled tokens (M,) to a number for each, (M,) float32."""


def token_scores(
    policy: Policy, batch: MicroBatch, *, scores: Sequence[Score], logits_at_once: int, reference: bool = False
) -> tuple[Tensor, ...]:
    """Each of ``scores`` for the sampled tokens of ``batch``, (B, T) float32; outside its mask they mean nothing.

    Args:
        policy: the policy. All logits exist at once if it is not a ``SeparablePolicy``.
        batch: the tokens.
        scores: functions of the logits. Those with gradient come first: the second computation stops after them.
        logits_at_once: largest number of logits, positions times vocabulary, that exist at once.
        reference: whether to ask the frozen reference instead, without gradient.
    """
    targets = batch.targets[batch.mask]  # (M,), row by row; the logits of `batch.reads` are in the same order
    columns = None
    whole = min(logits_at_once, _FEW)
    if isinstance(policy, SeparablePolicy) and batch.reads.numel() * policy.vocabulary_size > whole:
        columns = scores_in_parts(
            policy,
            (batch.input_ids, batch.attention_mask, batch.position_ids),
            reads=batch.reads,
            targets=targets,
            scores=scores,
            logits_at_once=logits_at_once,
            temperature=policy.temperature,
            reference=reference,
        )
    if columns is None:
        logits = completion_logits(policy, batch, reference=reference)
        columns = [score(logits, targets) for score in scores]
    return tuple(column.new_zeros(batch.mask.shape).masked_scatter(batch.mask, column) for column in columns)


def scores_in_parts(
    policy: SeparablePolicy,
    inputs: tuple[Tensor, Tensor, Tensor],
    *,
    reads: Tensor,
    targets: Tensor,
    scores: Sequence[Score],
    logits_at_once: int,
    temperature: float,
    reference: bool = False,
) -> list[Tensor] | None:
    """Each of ``scores``, (M,) float32, from a few logits at a time; None if the head cannot be applied by itself.

    Args:
        policy: the policy.
        inputs: token ids, attention mask and position ids of a forward pass, (B, L) int64 each.
        reads: true on the positions whose logits predict ``targets``, (B, K) bool, of the last K positions.
        targets: the tokens, (M,) int64, in the order of ``reads``.
        scores: functions of the logits. Those with gradient come first: the second computation stops after them.
        logits_at_once: largest number of logits that exist at once.
        temperature: number that logits are divided by.
        reference: whether to ask the frozen reference instead, without gradient.
    """
    separate = policy.hidden_states(*inputs, keep=reads.shape[1], reference=reference)
    if separate is None:
        return None
    hidden, head = separate

    def part(hidden: Tensor, targets: Tensor) -> list[Tensor]:
        logits = at_temperature(head(hidden.unsqueeze(0)).squeeze(0), temperature)
        return [score(logits, targets) for score in scores]

    size = max(1, logits_at_once // policy.vocabulary_size)
    several = list(zip(hidden[reads].split(size), targets.split(size), strict=True))
    if len(several) == 1:
        return part(*several[0])  # all logits fit, so none is computed twice
    parts = [checkpoint(part, *each, use_reentrant=False, preserve_rng_state=False) for each in several]
    return [torch.cat(column) for column in zip(*parts, strict=True)]
