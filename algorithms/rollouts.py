"""The rows of one update: what all processes know of them, and what is computed of those that are here."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from waltz_env.algorithms.advantages import token_rewards
from waltz_env.algorithms.batches import Batch
from waltz_env.algorithms.losses import kl_estimate
from waltz_env.algorithms.protocols import Metrics, Sample

logger = logging.getLogger(__name__)


class Row(NamedTuple):
    """What all processes know of one sample."""

    agent: str
    turn: int
    group: Hashable
    reward: float
    tokens: int
    version: int


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step: its micro-batches here, and its rows and tokens over all processes."""

    batches: list[Batch]
    rows: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Samples of this process and what is computed of them once an update; (N, T) on the CPU, rows in their order.

    Attributes:
        samples: the rows.
        steps: the optimiser steps of one epoch.
        mask: bool, true on sampled tokens.
        old_logprobs: log pi_old of the sampled tokens, float32.
        reference_logprobs: of the same under the reference; None where beta is 0.
        sampler_weights: of each token's loss; None without correction.
    """

    samples: Sequence[Sample]
    steps: list[Step]
    mask: Tensor
    old_logprobs: Tensor
    reference_logprobs: Tensor | None
    sampler_weights: Tensor | None

    def token_rewards(self, rewards: Sequence[float], beta: float) -> Tensor:
        """Each action's reward on its last token, less beta log(pi_old / pi_ref) at every token: (N, T)."""
        scored = token_rewards(torch.tensor(rewards), self.mask)
        if self.reference_logprobs is None:
            return scored
        return scored - beta * kl_estimate(self.old_logprobs, self.reference_logprobs, "k1")

    def spread(self, advantages: Sequence[float]) -> Tensor:
        """One advantage a row, at every token of it: (N, T)."""
        return torch.tensor(advantages).unsqueeze(1) * self.mask


def summary(rows: Sequence[Row], version: int) -> Metrics:
    """``rows``, ``tokens``, ``reward_mean``, ``reward_std``, ``staleness`` (mean updates since sampling).

    Args:
        rows: of all processes.
        version: of the policy now.
    """
    if not rows:
        return {"rows": 0.0, "tokens": 0.0}
    rewards = [row.reward for row in rows]
    return {
        "rows": float(len(rows)),
        "tokens": float(sum(row.tokens for row in rows)),
        "reward_mean": float(np.mean(rewards)),
        "reward_std": float(np.std(rewards)),
        "staleness": version - float(np.mean([row.version for row in rows])),
    }


def lone_rows(rows: Sequence[Row]) -> Metrics:
    """``lone_rows``, the share of rows alone in their group, for learners with a baseline of the group."""
    sizes = Counter(row.group for row in rows)
    lone = sum(sizes[row.group] == 1 for row in rows)
    if lone == len(rows) > 1:
        logger.warning(
            "All %d rows are alone in their groups, and a baseline of the group leaves nothing to learn from them. "
            "Play several games a prompt (games_per_prompt), or group rows by verdict.",
            len(rows),
        )
    return {"lone_rows": lone / len(rows)} if rows else {}


def agents_to_learn(rows: Sequence[Row], advantages: Sequence[float], min_std: float) -> set[str]:
    """Agents with something to learn: whose ``advantages``, one a row, spread by ``min_std`` or more.

    >>> rows = [Row("a", 0, "", 1.0, 5, 0), Row("a", 0, "", 0.0, 5, 0), Row("b", 0, "", 1.0, 5, 0)]
    >>> agents_to_learn(rows, [0.5, -0.5, 0.5], min_std=1e-6)
    {'a'}
    """
    values: dict[str, list[float]] = {}
    for row, advantage in zip(rows, advantages, strict=True):
        values.setdefault(row.agent, []).append(advantage)
    return {agent for agent, each in values.items() if np.std(each) >= min_std}
