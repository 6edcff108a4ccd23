"""From a reward for each action to an advantage for each of its tokens. Pure functions of tensors.

All per-token tensors are (N, T) with a bool mask (N, T) that is true on sampled tokens; rows are padded on the right.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

Group = TypeVar("Group", bound=Hashable)
_VARIANCE_FLOOR = 1e-8


def group_advantages(
    groups: Sequence[Hashable], rewards: Sequence[float], *, of: Mapping[Hashable, Moments], scaled: bool
) -> list[float]:
    """Reward minus the mean of its group, and over the group's standard deviation where ``scaled``.

    The standard deviation is the population's and at least 1e-4. Source: arXiv:2402.03300, sec. 4.1.2.

    Args:
        groups: of each row.
        rewards: of each row.
        of: the moments of each group's rewards, over all processes.
        scaled: whether to divide.
    """
    return [
        (reward - of[group].mean) / (of[group].deviation if scaled else 1.0)
        for group, reward in zip(groups, rewards, strict=True)
    ]


def leave_one_out(
    groups: Sequence[Hashable], rewards: Sequence[float], *, of: Mapping[Hashable, Moments]
) -> list[float]:
    """Reward minus the mean of the OTHER rewards of its group; 0 for a row alone in its group.

    Source: arXiv:2402.14740. It is n / (n - 1) times the distance to the mean of all n.

    Args:
        groups: of each row.
        rewards: of each row.
        of: the moments of each group's rewards, over all processes.
    """
    return [
        (reward - of[group].mean) * of[group].size / max(of[group].size - 1.0, 1.0)
        for group, reward in zip(groups, rewards, strict=True)
    ]


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


def generalised_advantages(rewards: Tensor, values: Tensor, mask: Tensor, *, decay: float) -> Tensor:
    """GAE without discount: sum_{l >= 0} decay^l delta_{i+l} with delta_i = r_i + V(s_{i+1}) - V(s_i).

    Source: arXiv:1506.02438, eq. 16.

    Args:
        rewards: r_i, (N, T); 0 outside the mask.
        values: V(s_i), of the state before token i, (N, T). After the last token V is 0.
        mask: (N, T) bool.
        decay: lambda in [0, 1]; 1 gives return minus V, 0 the one-step error.

    Returns:
        (N, T), 0 outside the mask. Plus ``values`` it is the lambda-return, the critic's target.
    """
    values = values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    errors = (rewards + following - values) * mask
    advantages = torch.zeros_like(errors)
    total = errors.new_zeros(len(errors))
    for i in reversed(range(errors.shape[1])):
        total = errors[:, i] + decay * total
        advantages[:, i] = total
    return advantages * mask


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

    @property
    def mean(self) -> float:
        return self.total / self.size

    @property
    def deviation(self) -> float:
        """Standard deviation, of a variance of at least 1e-8."""
        return float(max(self.squares / self.size - self.mean**2, _VARIANCE_FLOOR) ** 0.5)


def group_moments(groups: Sequence[Group], rewards: Sequence[float]) -> dict[Group, Moments]:
    """The moments of each group's rewards.

    >>> group_moments(["a", "b", "a"], [1.0, 5.0, 0.0])["a"]
    Moments(size=2.0, total=1.0, squares=1.0)
    """
    members: dict[Group, list[Moments]] = {}
    for group, reward in zip(groups, rewards, strict=True):
        members.setdefault(group, []).append(Moments(1.0, reward, reward**2))
    return {group: Moments.merge(parts) for group, parts in members.items()}


def normalise(values: Tensor, mask: Tensor, moments: Moments) -> Tensor:
    """Values (N, T) minus the mean, over the standard deviation, of ``moments``; 0 outside the mask.

    The variance is the population's and at least 1e-8.
    """
    normalised: Tensor = (values - moments.mean) / moments.deviation * mask
    return normalised
