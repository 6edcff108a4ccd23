"""Log-probabilities of the sampled tokens before an update: under pi_old, and under the reference.

1. Log-probabilities of the sampler serve as pi_old, which saves a pass. ``old_logprobs="trainer"`` computes them again,
   for a sampler of another precision or another implementation.
2. ``sampler_correction="truncated"`` then weights each token's loss by min(pi_old of the trainer / pi of the sampler,
   ``sampler_cap``): truncated importance sampling (Ionides 2008), as it is used for this gap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from waltz_env.algorithms.batches import Step, batches_of, pad, token_logprobs
from waltz_env.algorithms.losses import KL, kl_estimate, probability_ratio
from waltz_env.algorithms.processes import Processes
from waltz_env.algorithms.protocols import Metrics, Policy, Sample
from waltz_env.algorithms.surrogate import SurrogateConfig
from waltz_env.algorithms.token_scores import token_scores

_REPORTED: dict[str, KL] = {"kl": "k1", "kl_k3": "k3"}


class Logprobs(NamedTuple):
    """What is known of the sampled tokens of N rows before an update; all (N, T) on the CPU, see ``UpdateBatch``."""

    mask: Tensor
    old: Tensor
    reference: Tensor | None
    sampler_weights: Tensor | None


def known_logprobs(
    samples: Sequence[Sample],
    *,
    score: Callable[[bool], Tensor],
    tokens: int,
    config: SurrogateConfig,
    processes: Processes,
) -> tuple[Logprobs, Metrics]:
    """Look up or compute log-probabilities under pi_old and, with a KL penalty, under the reference.

    Args:
        samples: the N samples of this process.
        score: computes the log-probabilities of their tokens, (N, T) float32 and 0 outside the mask: under the policy
            as it is now or, called with True, under the reference.
        tokens: number of sampled tokens over all processes.
        config: whether pi_old is computed, and whether there is a penalty and a correction.
        processes: processes that update together.

    Returns:
        The log-probabilities, and metrics over the tokens of all processes. With a penalty (``beta`` above 0): ``kl``
        (k1) and ``kl_k3`` of pi_old from the reference, per token. Where the trainer computes pi_old: ``sampler_gap``
        and ``sampler_gap_max`` (mean and largest absolute difference of a token's log-probability from the sampler's,
        nats), ``mismatch_kl`` (k3 of the sampler from the trainer, per token) and, with the correction,
        ``sampler_weight`` (mean).
    """
    sampled, mask = pad([sample.logprobs for sample in samples])
    old = sampled if config.old_logprobs == "sampler" else score(False)
    reference = score(True) if config.beta > 0 else None
    # Sums over the tokens of this process; every process has the same names in them, also one without samples.
    sums = {}
    if reference is not None:
        for name, estimate in _REPORTED.items():
            sums[name] = kl_estimate(old, reference, estimate=estimate)[mask].sum().item()
    largest = []
    weights = None
    if config.old_logprobs == "trainer":
        gap = (old - sampled)[mask].abs()
        largest = [gap.max().item()] if len(gap) else []
        sums["sampler_gap"] = gap.sum().item()
        sums["mismatch_kl"] = kl_estimate(sampled, old, estimate="k3")[mask].sum().item()
        if config.sampler_correction == "truncated":
            weights = probability_ratio(old, sampled).clamp(max=config.sampler_cap)
            sums["sampler_weight"] = weights[mask].sum().item()
    gathered = processes.gather([sums])
    metrics = {name: sum(part[name] for part in gathered) / tokens for name in sums}
    everywhere = processes.gather(largest)
    if everywhere:
        metrics["sampler_gap_max"] = max(everywhere)
    return Logprobs(mask, old, reference, weights), metrics


@torch.no_grad()
def trainer_logprobs(
    policy: Policy,
    mask: Tensor,
    *,
    steps: Sequence[Step],
    config: SurrogateConfig,
    processes: Processes,
    reference: bool,
) -> Tensor:
    """Log-probabilities of the sampled tokens as ``policy`` computes them, or its reference.

    Args:
        policy: the policy, in this process.
        mask: true on sampled tokens, (N, T) bool.
        steps: the N samples as micro-batches.
        config: limits the memory of a forward pass.
        processes: precision of a forward pass.
        reference: whether the reference computes them.

    Returns:
        (N, T) float32, 0 outside ``mask``.
    """
    result = torch.zeros(mask.shape)
    for batch in batches_of(steps):
        with processes.autocast():
            (logprobs,) = token_scores(
                policy, batch, scores=[token_logprobs], logits_at_once=config.logits_at_once, reference=reference
            )
        result[batch.rows, : batch.targets.shape[1]] = logprobs[: len(batch.rows)].cpu()
    return result * mask
