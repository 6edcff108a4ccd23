"""From a reward for each action to an advantage for each of its tokens. Pure functions of tensors.

All per-token tensors are (N, T) with a bool mask (N, T) that is true on sampled tokens; rows are padded on the right.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from torch import Tensor

_VARIANCE_FLOOR = 1e-8


def group_means(groups: Sequence[Hashable], rewards: Sequence[float]) -> dict[Hashable, float]:
    """The mean reward of each group. A row alone in its group has its own reward as baseline, and so no advantage.

    >>> group_means(["a", "b", "a"], [1.0, 5.0, 0.0])
    {'a': 0.5, 'b': 5.0}
    """
    members: dict[Hashable, list[float]] = {}
    for group, reward in zip(groups, rewards, strict=True):
        members.setdefault(group, []).append(reward)
    return {group: sum(values) / len(values) for group, values in members.items()}


def token_rewards(rewards: Tensor, mask: Tensor) -> Tensor:
    """Puts each action's reward (N,) on its last token: (N, T)."""
    last = mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))
    return last * rewards.unsqueeze(1)


def returns_to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """Undiscounted sum of the rewards (N, T) of this and all later tokens: (N, T), 0 outside the mask.

    With the KL penalty in the reward this is the bracket of arXiv:2510.08240, sec. 4:
    R(x, y) - beta sum_{t >= i} log(pi_old(y_t) / pi_ref(y_t)).
    """
    return (rewards * mask).flip(1).cumsum(1).flip(1) * mask


class Moments(NamedTuple):
    """Sums from which mean and population variance follow; those of parts add up to those of the whole."""

    size: float
    total: float
    squares: float

    @classmethod
    def of(cls, values: Tensor, mask: Tensor) -> Moments:
        """The moments of ``values[mask]``, in float64."""
        chosen = values[mask].double()
        return cls(float(chosen.numel()), float(chosen.sum()), float(chosen.square().sum()))

    @classmethod
    def merge(cls, parts: Sequence[Moments]) -> Moments:
        """The moments of all parts together."""
        return cls(*(sum(column) for column in zip(*parts, strict=True)))


def normalise(values: Tensor, mask: Tensor, moments: Moments) -> Tensor:
    """Values (N, T) minus the mean, over the standard deviation, of ``moments``; 0 outside the mask.

    The variance is the population's and at least 1e-8.
    """
    mean = moments.total / moments.size
    variance = max(moments.squares / moments.size - mean**2, _VARIANCE_FLOOR)
    normalised: Tensor = (values - mean) / variance**0.5 * mask
    return normalised
