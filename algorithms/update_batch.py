"""The plain data of one update: facts of the samples of all processes, and log-probabilities of this process's tokens.

An estimator computes advantages from nothing else, so whoever has these numbers can compute the same advantages without
a policy: an engine on another machine builds an ``UpdateBatch`` from what it recorded (see ``estimator``).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from waltz_env.algorithms import advantages
from waltz_env.algorithms.advantages import Moments, group_moments
from waltz_env.algorithms.losses import kl_estimate
from waltz_env.algorithms.protocols import Metrics, Sample

logger = logging.getLogger(__name__)

SumMoments = Callable[[Mapping[Hashable, Moments]], Mapping[Hashable, Moments]]
"""From the moments that this process has of each key to those of all processes; every process must call it."""


class SampleFacts(NamedTuple):
    """What all processes know about one sample."""

    agent: str
    turn: int
    group: Hashable
    reward: float
    tokens: int
    version: int

    @classmethod
    def of(cls, sample: Sample) -> SampleFacts:
        """The facts of ``sample``."""
        return cls(sample.agent, sample.turn, sample.group, sample.reward, len(sample.token_ids), sample.version)


@dataclass(frozen=True, slots=True)
class UpdateBatch:
    """Everything that advantages are computed from. N rows, one per sample of this process; T, its longest completion.

    Attributes:
        facts: facts of the N rows, in the order of the tensors' rows.
        all_facts: facts of the samples of all processes, also of agents that the update leaves out.
        mask: true on sampled tokens, (N, T) bool on the CPU, as are the tensors below.
        old_logprobs: log pi_old of the sampled tokens, (N, T) float32.
        reference_logprobs: log pi_ref of the sampled tokens, (N, T) float32; None without a KL penalty.
        sampler_weights: factor of each token's loss, (N, T) float32; None without correction. Advantages ignore it.
        values: a critic's V before each token, (N, T) float32; None without a critic.
        sum_moments: sums moments over processes; by default there is one process.
    """

    facts: Sequence[SampleFacts]
    all_facts: Sequence[SampleFacts]
    mask: Tensor
    old_logprobs: Tensor
    reference_logprobs: Tensor | None = None
    sampler_weights: Tensor | None = None
    values: Tensor | None = None
    sum_moments: SumMoments = dict

    @property
    def rewards(self) -> list[float]:
        """Reward per row."""
        return [fact.reward for fact in self.facts]

    @property
    def groups(self) -> list[Hashable]:
        """Group key per row."""
        return [fact.group for fact in self.facts]

    def token_rewards(self, rewards: Sequence[float], *, beta: float) -> Tensor:
        """Each action's reward on its last token, minus beta log(pi_old / pi_ref) at every token: (N, T)."""
        scored = advantages.token_rewards(torch.tensor(rewards), self.mask)
        if self.reference_logprobs is None:
            return scored
        return scored - beta * kl_estimate(self.old_logprobs, self.reference_logprobs, estimate="k1")

    def spread(self, values: Sequence[float]) -> Tensor:
        """One value per row, repeated at every token of the row: (N, T), 0 outside the mask."""
        return torch.tensor(values).unsqueeze(1) * self.mask

    def reward_moments(self) -> dict[Hashable, Moments]:
        """The moments of each group's rewards, over all processes."""
        # The facts of all processes are here, so nothing is sent. A group's key names its agent and turn (see
        # ``Sample.group``): groups of different agents never meet, and one dict serves all of them.
        return reward_moments(self.all_facts)

    def group_moments(self, values: Sequence[float]) -> Mapping[Hashable, Moments]:
        """The moments of other ``values``, one per row, in each group, over all processes."""
        return self.sum_moments(group_moments(self.groups, values))

    def normalize(self, values: Tensor) -> Tensor:
        """Values (N, T) shifted and scaled to mean 0 and deviation 1 over all tokens of the same agent's rows."""
        agents = [fact.agent for fact in self.facts]
        rows = {agent: [i for i, other in enumerate(agents) if other == agent] for agent in dict.fromkeys(agents)}
        # A process without rows of an agent still takes part in the sum: every process makes the same calls.
        moments = self.sum_moments({agent: Moments.of(values[i], self.mask[i]) for agent, i in rows.items()})
        normalized = torch.zeros_like(values)
        for agent, i in rows.items():
            normalized[i] = advantages.normalize(values[i], self.mask[i], moments=moments[agent])
        return normalized


def summary(facts: Sequence[SampleFacts], version: int) -> Metrics:
    """``rows``, ``tokens``, ``reward_mean``, ``reward_std``, ``staleness`` (mean number of updates since sampling).

    Args:
        facts: facts of the samples of all processes.
        version: the policy's present version.
    """
    if not facts:
        return {"rows": 0.0, "tokens": 0.0}
    rewards = [fact.reward for fact in facts]
    return {
        "rows": float(len(facts)),
        "tokens": float(sum(fact.tokens for fact in facts)),
        "reward_mean": float(np.mean(rewards)),
        "reward_std": float(np.std(rewards)),
        "staleness": version - float(np.mean([fact.version for fact in facts])),
    }


def lone_rows(facts: Sequence[SampleFacts]) -> Metrics:
    """``lone_rows``, the share of samples alone in their group, for algorithms whose baseline is the group's mean."""
    sizes = Counter(fact.group for fact in facts)
    lone = sum(sizes[fact.group] == 1 for fact in facts)
    if lone == len(facts) > 1:
        logger.warning(
            "All %d rows are alone in their groups, so a group baseline leaves nothing to learn from them. Play "
            "several games per prompt (branches), or group samples by labels.",
            len(facts),
        )
    return {"lone_rows": lone / len(facts)} if facts else {}


def reward_moments(facts: Sequence[SampleFacts]) -> dict[Hashable, Moments]:
    """The moments of each group's rewards."""
    return group_moments([fact.group for fact in facts], [fact.reward for fact in facts])


def centered_rewards(facts: Sequence[SampleFacts], *, moments: Mapping[Hashable, Moments]) -> list[float]:
    """Reward minus the mean of its group, per row."""
    return [fact.reward - moments[fact.group].mean for fact in facts]


def agents_with_spread(facts: Sequence[SampleFacts], surprises: Sequence[float], *, min_std: float) -> set[str]:
    """Agents whose ``surprises``, one per row, have a standard deviation of at least ``min_std``.

    >>> facts = [SampleFacts(agent, 0, "", 0.0, 5, 0) for agent in "aab"]
    >>> agents_with_spread(facts, [0.5, -0.5, 0.5], min_std=1e-6)
    {'a'}
    """
    values: dict[str, list[float]] = {}
    for fact, surprise in zip(facts, surprises, strict=True):
        values.setdefault(fact.agent, []).append(surprise)
    return {agent for agent, several in values.items() if np.std(several) >= min_std}
