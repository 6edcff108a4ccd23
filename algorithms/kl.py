"""Estimates of KL(policy || reference) from sampled tokens. With d = log pi(y) - log ref(y), y drawn from pi:

* k1 = d. Unbiased; single values may be negative. As a term of the reward it gives the gradient of the KL.
* k2 = d^2 / 2. Biased as a value; as a term of the loss, on-policy, its gradient is the gradient of the KL.
* k3 = exp(-d) - 1 + d. Unbiased and never negative; for reports.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]
_LIMIT = 10.0


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: Estimator) -> Tensor:
    """Per-token estimate of KL(policy || reference).

    Args:
        logprobs: of the sampled tokens under the policy, any shape, float32.
        reference: of the same tokens under the reference, same shape.
        estimator: see this file's head.

    Returns:
        Same shape, in nats; k1 clamped to [-10, 10], k2 and k3 to at most 10, against single tokens of runaway size.
    """
    difference = logprobs - reference
    if estimator == "k1":
        value = difference
    elif estimator == "k2":
        value = difference.square() / 2
    else:
        value = (-difference).expm1() + difference
    return value.clamp(-_LIMIT, _LIMIT)
