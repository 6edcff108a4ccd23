"""From a reward per action to an advantage per token. Pure functions of numbers and tensors.

All per-token tensors are (N, T) with a bool mask (N, T) that is true on sampled tokens; rows are padded on the right.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)
_VARIANCE_FLOOR = 1e-8


class Moments(NamedTuple):
    """Sums that give mean and population variance. The sums of the parts add up to the sums of the whole."""

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
        """Standard deviation, from a variance of at least 1e-8."""
        return float(max(self.squares / self.size - self.mean**2, _VARIANCE_FLOOR) ** 0.5)


def merge_moments(parts: Iterable[tuple[Key, Moments]]) -> dict[Key, Moments]:
    """The moments of each key: those of all its parts together."""
    members: dict[Key, list[Moments]] = {}
    for key, part in parts:
        members.setdefault(key, []).append(part)
    return {key: Moments.merge(several) for key, several in members.items()}


def group_moments(groups: Sequence[Key], rewards: Sequence[float]) -> dict[Key, Moments]:
    """The moments of each group's rewards.

    >>> group_moments(["a", "b", "a"], [1.0, 5.0, 0.0])["a"]
    Moments(size=2.0, total=1.0, squares=1.0)

    Args:
        groups: group key per row.
        rewards: reward per row.
    """
    return merge_moments(
        (group, Moments(1.0, reward, reward**2)) for group, reward in zip(groups, rewards, strict=True)
    )


def group_advantages(
    groups: Sequence[Hashable], rewards: Sequence[float], *, moments: Mapping[Hashable, Moments], scaled: bool
) -> list[float]:
    """Reward minus the mean of its group, divided by the group's standard deviation if ``scaled``.

    The standard deviation is the population's and at least 1e-4. Source: arXiv:2402.03300, sec. 4.1.2.

    Args:
        groups: group key per row.
        rewards: reward per row.
        moments: moments of each group's rewards, over all processes.
        scaled: whether to divide.
    """
    return [
        (reward - moments[group].mean) / (moments[group].deviation if scaled else 1.0)
        for group, reward in zip(groups, rewards, strict=True)
    ]


def leave_one_out(
    groups: Sequence[Hashable], rewards: Sequence[float], *, moments: Mapping[Hashable, Moments]
) -> list[float]:
    """Reward minus the mean of the OTHER rewards of its group; 0 for a row that is alone in its group.

    Source: arXiv:2402.14740. It is n / (n - 1) times the distance to the mean of all n.

    Args:
        groups: group key per row.
        rewards: reward per row.
        moments: moments of each group's rewards, over all processes.
    """
    return [
        (reward - moments[group].mean) * moments[group].size / max(moments[group].size - 1.0, 1.0)
        for group, reward in zip(groups, rewards, strict=True)
    ]


def token_rewards(rewards: Tensor, mask: Tensor) -> Tensor:
    """Put each action's reward (N,) on its last token: (N, T)."""
    last = mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))
    return last * rewards.unsqueeze(1)


def returns_to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """Undiscounted sum of the rewards (N, T) of this and all later tokens: (N, T), 0 outside the mask.

    With the KL penalty in the reward this is the bracket of arXiv:2510.08240, sec. 4:
    R(x, y) - beta sum_{t >= i} log(pi_old(y_t) / pi_ref(y_t)).
    """
    return (rewards * mask).flip(1).cumsum(1).flip(1) * mask


def generalized_advantages(rewards: Tensor, values: Tensor, *, mask: Tensor, gae_lambda: float) -> Tensor:
    """GAE without discount: sum_{l >= 0} lambda^l delta_{i+l} with delta_i = r_i + V(s_{i+1}) - V(s_i).

    Source: arXiv:1506.02438, eq. 16.

    Args:
        rewards: reward r_i per token, (N, T); 0 outside the mask.
        values: V(s_i), value of the state before token i, (N, T). After the last token V is 0.
        mask: true on sampled tokens, (N, T) bool.
        gae_lambda: lambda in [0, 1]; 1 gives return minus V, 0 the one-step error.

    Returns:
        (N, T), 0 outside the mask. Adding ``values`` gives the lambda-return, the critic's target.
    """
    values = values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    errors = (rewards + following - values) * mask
    advantages = torch.zeros_like(errors)
    total = errors.new_zeros(len(errors))
    for i in reversed(range(errors.shape[1])):
        total = errors[:, i] + gae_lambda * total
        advantages[:, i] = total
    return advantages * mask


def normalize(values: Tensor, mask: Tensor, *, moments: Moments) -> Tensor:
    """Values (N, T) minus the mean of ``moments``, divided by their standard deviation; 0 outside the mask.

    The variance is the population's and at least 1e-8.
    """
    normalized: Tensor = (values - moments.mean) / moments.deviation * mask
    return normalized
