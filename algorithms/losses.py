"""The loss of each token, estimates of the KL penalty, and the weights that add tokens up. Pure functions of tensors.

Estimates of KL(policy || reference) use sampled tokens alone. With d = log pi(y) - log ref(y) and y drawn from pi:

* k1 = d. Unbiased; single values may be negative. As a term of the reward it gives the gradient of the KL.
* k2 = d^2 / 2. Biased as a value; as a term of the loss, on-policy, its gradient is the gradient of the KL.
* k3 = exp(-d) - 1 + d. Unbiased and never negative; for reports.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["sequence", "token", "sum"]
KL = Literal["k1", "k2", "k3"]
"""An estimate of the KL; see the head of this file."""

_LOG_RATIO_LIMIT = 20.0
_KL_LIMIT = 10.0


def probability_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """s_i = pi(y_i) / pi_old(y_i), with its logarithm clamped to [-20, 20]."""
    return (logprobs - old_logprobs).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()


def clipped_surrogate(ratio: Tensor, advantages: Tensor, *, clip: float) -> Tensor:
    """-min(s_i A_i, clip(s_i, 1 - eps, 1 + eps) A_i), the negative of the term in arXiv:2510.08240, eq. 4."""
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def kl_estimate(logprobs: Tensor, reference: Tensor, *, estimate: KL) -> Tensor:
    """Per-token estimate of KL(policy || reference).

    Args:
        logprobs: log-probabilities of the sampled tokens under the policy, any shape, float32.
        reference: log-probabilities of the same tokens under the reference, same shape.
        estimate: which estimate; see the head of this file.

    Returns:
        Same shape, in nats; k1 clamped to [-10, 10], k2 and k3 to at most 10, so that no single token dominates.
    """
    difference = logprobs - reference
    if estimate == "k1":
        value = difference
    elif estimate == "k2":
        value = difference.square() / 2
    else:
        value = (-difference).expm1() + difference
    return value.clamp(-_KL_LIMIT, _KL_LIMIT)


def token_weights(mask: Tensor, aggregation: Aggregation, *, rows: int, tokens: int) -> Tensor:
    """Weights (B, T) float32 that turn a sum over a micro-batch into its share of the mean over an optimizer step.

    Args:
        mask: true on sampled tokens, (B, T) bool.
        aggregation: ``"sequence"``: mean over a row's tokens, then over rows (eq. 4); ``"token"``: mean over all
            tokens; ``"sum"``: sum over a row's tokens, then mean over rows: the log-probability of the whole action.
        rows: number of rows in the whole step, over all micro-batches and processes.
        tokens: number of tokens in the whole step, likewise.
    """
    if aggregation == "token":
        return mask.float() / tokens
    if aggregation == "sum":
        return mask.float() / rows
    return mask.float() / (mask.sum(1, keepdim=True) * rows)
