"""What makes an algorithm: how it turns rewards into an advantage for every token.

``PolicyGradient`` does the rest. An estimator never asks a policy for anything, so its advantages can also be computed
where there is none, for an engine on another machine that makes its own forward passes:

    estimator = algorithm("grpo").estimator()
    estimator.observe(all_facts)                                    # facts of all samples of the update
    agents = estimator.agents_to_learn(all_facts, min_std=1e-6)     # leave the samples of others out
    batch = UpdateBatch(facts, all_facts, mask, old_logprobs, reference_logprobs)
    advantages = estimator.advantages(batch)                        # (N, T), for the engine's loss
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from waltz_env.algorithms.losses import KL
from waltz_env.algorithms.protocols import Metrics
from waltz_env.algorithms.update_batch import (
    SampleFacts,
    UpdateBatch,
    agents_with_spread,
    centered_rewards,
    reward_moments,
)
from waltz_env.errors import UsageError


class Estimator(Protocol):
    """The part of a policy-gradient algorithm that is its own. Derive from it and write ``advantages``.

    An update calls ``observe``, ``agents_to_learn``, ``advantages`` and ``metrics`` once each, in this order, and stops
    after ``agents_to_learn`` if that leaves no agent. Every process makes the same calls, also one without samples.

    Attributes:
        kl: estimate of the KL penalty that is added to the loss, beta-fold; None if the penalty is part of the reward
            or absent.
        needs_groups: whether rewards are compared with the mean of their group, so that a sample alone in its group
            teaches nothing.
    """

    @property
    def kl(self) -> KL | None:
        return None

    @property
    def needs_groups(self) -> bool:
        return False

    def observe(self, all_facts: Sequence[SampleFacts]) -> None:
        """Take note of the samples of all processes, before anything is computed; for estimators with a memory."""
        return

    def surprises(self, all_facts: Sequence[SampleFacts]) -> list[float]:
        """Reward minus baseline, per sample: where these hardly differ, there is nothing to learn.

        By default the baseline is the mean of the group if ``needs_groups``, and 0 otherwise.
        """
        if self.needs_groups:
            return centered_rewards(all_facts, moments=reward_moments(all_facts))
        return [fact.reward for fact in all_facts]

    def agents_to_learn(self, all_facts: Sequence[SampleFacts], min_std: float) -> set[str]:
        """Agents that the update learns from; by default those whose ``surprises`` spread by ``min_std`` or more.

        Without this rule, normalization would blow up what is left of equal rewards, the noise of the KL penalty.
        """
        return agents_with_spread(all_facts, self.surprises(all_facts), min_std=min_std)

    def advantages(self, batch: UpdateBatch) -> Tensor:
        """The advantage of every token, (N, T) float32, 0 outside the mask."""
        ...

    def value_targets(self, batch: UpdateBatch) -> Tensor:
        """What the critic is fitted to, (N, T) float32; called only if the learner has a critic."""
        raise UsageError(f"{type(self).__name__} needs a method `value_targets` before a critic can learn beside it.")

    def metrics(self, batch: UpdateBatch) -> Metrics:
        """The estimator's own metrics of an update."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """Memory of earlier updates that an exact continuation needs; empty by default."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state returned by ``state_dict``; other keys of ``state`` are ignored."""
        return
