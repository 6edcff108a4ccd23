"""PPO over tokens with one critic per agent (arXiv:1707.06347): independent PPO, one learner per agent.

1. As published: the clipped objective (eq. 7) and generalized advantages (eq. 11; arXiv:1506.02438) with a learned V.
   As PPO on language models (InstructGPT, arXiv:2203.02155): a token is an action, the reward is on the last token, the
   KL penalty on every token (k1), no discount; advantages are normalized over the batch, per agent.
2. Different: V is a small network on the frozen reference's last hidden states (see ``critic``), with an optimizer of
   its own, fitted after the advantages are computed. Published is a network of the policy's size, for which there is
   often no memory beside the policy, or a head on the policy itself, whose loss also changes the policy.
3. Different: ``gae_lambda`` 1 (published 0.95): the advantage is return minus V, so that the error of a small critic
   adds variance and never bias.
4. Different: plain least squares, no clipping of the value loss, which did not help where it was measured
   (arXiv:2006.05990), no entropy bonus, one epoch of one minibatch as for every algorithm here.
5. Different: an episode is one turn of the game, not the game. Each turn has its own reward; the critique's depends on
   the revision that it led to.
6. Different: an update whose rewards are all equal is skipped and counted, the critic's included.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from accelerate.accelerator import Accelerator
from torch import Tensor

from waltz_env.algorithms.advantages import generalized_advantages
from waltz_env.algorithms.critic import CriticConfig
from waltz_env.algorithms.estimator import Estimator
from waltz_env.algorithms.losses import Aggregation
from waltz_env.algorithms.policy_gradient import PolicyGradient
from waltz_env.algorithms.protocols import Policy
from waltz_env.algorithms.surrogate import SurrogateConfig
from waltz_env.algorithms.update_batch import UpdateBatch
from waltz_env.checks import check_choice, check_integer, check_number, check_settings
from waltz_env.errors import UsageError


@dataclass(frozen=True, slots=True)
class PPO(Estimator):
    """The advantages of PPO, from the values of a critic; ``beta`` is the weight of the KL penalty in the reward."""

    beta: float
    gae_lambda: float = 1.0

    def advantages(self, batch: UpdateBatch) -> Tensor:
        return batch.normalize(self._generalized(batch, _values(batch)))

    def value_targets(self, batch: UpdateBatch) -> Tensor:
        """Lambda-returns."""
        values = _values(batch)
        return self._generalized(batch, values) + values

    def _generalized(self, batch: UpdateBatch, values: Tensor) -> Tensor:
        rewards = batch.token_rewards(batch.rewards, beta=self.beta)
        return generalized_advantages(rewards, values, mask=batch.mask, gae_lambda=self.gae_lambda)


def _values(batch: UpdateBatch) -> Tensor:
    if batch.values is None:
        raise UsageError("PPO needs a critic's values; give `UpdateBatch` its `values`, or the learner a `critic`.")
    return batch.values


@dataclass(frozen=True, slots=True)
class PPOConfig:
    """Settings of PPO with a critic.

    Attributes:
        gae_lambda: lambda of generalized advantages, in [0, 1].
        critic: settings of the value function.
        state_size: number of values of ``Sample.state`` that V reads beside the agent's observation; 0 except for
            ``mappo``.
        aggregation: how the losses of tokens add up, see ``losses.token_weights``.
        surrogate: settings that all algorithms share.
    """

    gae_lambda: float = 1.0
    critic: CriticConfig = field(default_factory=CriticConfig)
    state_size: int = 0
    aggregation: Aggregation = "sequence"
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)

    def __post_init__(self) -> None:
        check_settings(self)
        check_number("gae_lambda", self.gae_lambda, low=0, high=1)
        check_integer("state_size", self.state_size, at_least=0)
        check_choice("aggregation", self.aggregation, get_args(Aggregation))

    def estimator(self) -> PPO:
        """The advantages alone, for an engine without our policies."""
        return PPO(beta=self.surrogate.beta, gae_lambda=self.gae_lambda)

    def build(self, policy: Policy, accelerator: Accelerator | None = None) -> PolicyGradient:
        """Return a new learner for ``policy``.

        Raises:
            UsageError: the policy has no features for a critic.
        """
        return PolicyGradient(
            policy,
            self.estimator(),
            surrogate=self.surrogate,
            aggregation=self.aggregation,
            critic=self.critic,
            state_size=self.state_size,
            accelerator=accelerator,
        )
