"""The loss of each token, and the weights that add tokens up. Pure functions of (B, T) tensors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["sequence", "token", "sum"]
_LOG_RATIO_LIMIT = 20.0


def probability_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """s_i = pi(y_i) / pi_old(y_i), with its logarithm clamped to [-20, 20]."""
    return (logprobs - old_logprobs).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """-min(s_i A_i, clip(s_i, 1 - eps, 1 + eps) A_i), the negative of the term in arXiv:2510.08240, eq. 4."""
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def token_weights(mask: Tensor, aggregation: Aggregation, *, rows: int, tokens: int) -> Tensor:
    """Weights (B, T) float32 that turn a sum over a micro-batch into its share of the mean over an optimiser step.

    Args:
        mask: (B, T) bool, true on sampled tokens.
        aggregation: ``"sequence"``: mean over a row's tokens, then over rows (eq. 4); ``"token"``: over all tokens;
            ``"sum"``: sum over a row's tokens, mean over rows, for the log-probability of the whole action.
        rows: of the whole step, all micro-batches and processes.
        tokens: likewise.
    """
    if aggregation == "token":
        return mask.float() / tokens
    if aggregation == "sum":
        return mask.float() / rows
    return mask.float() / (mask.sum(1, keepdim=True) * rows)
