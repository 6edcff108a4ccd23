"""RLOO: REINFORCE whose baseline is the mean of the group's other rewards (arXiv:2402.14740).

1. As published: the whole completion is one action with the reward R(x, y) - beta log(pi(y) / pi_ref(y)); its baseline
   is the mean of this reward over the other rows of its group, which leaves the gradient unbiased; the loss is the
   log-probability of the whole completion (``aggregation="sum"``); no normalization, no critic.
2. Different: the gradient goes through the clipped objective. In the one on-policy step of the default it is the same
   gradient; with several epochs the clip keeps each token's ratio near 1.
3. Different: a group is the rows of one agent in one turn with the same prompt (or labels, see ``samples``). They come
   from several games per prompt; a row alone in its group has advantage 0.
4. Different: an update in which the rewards of each group are equal is skipped and counted: what is left is KL noise.
5. Learning rate, beta and AdamW's settings are this project's, to compare like with like.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, get_args

from accelerate.accelerator import Accelerator
from torch import Tensor

from waltz_env.algorithms.advantages import leave_one_out
from waltz_env.algorithms.estimator import Estimator
from waltz_env.algorithms.losses import Aggregation
from waltz_env.algorithms.policy_gradient import PolicyGradient
from waltz_env.algorithms.protocols import Policy
from waltz_env.algorithms.surrogate import SurrogateConfig
from waltz_env.algorithms.update_batch import UpdateBatch
from waltz_env.checks import check_choice, check_settings


@dataclass(frozen=True, slots=True)
class RLOO(Estimator):
    """The advantages of RLOO; ``beta`` is the weight of the KL penalty in the reward."""

    beta: float
    needs_groups: ClassVar[bool] = True

    def advantages(self, batch: UpdateBatch) -> Tensor:
        returns = batch.token_rewards(batch.rewards, beta=self.beta).sum(1).tolist()
        return batch.spread(leave_one_out(batch.groups, returns, moments=batch.group_moments(returns)))


@dataclass(frozen=True, slots=True)
class RLOOConfig:
    """Settings of RLOO.

    Attributes:
        aggregation: how the losses of tokens add up, see ``losses.token_weights``.
        surrogate: settings that all algorithms share.
    """

    aggregation: Aggregation = "sum"
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    needs_groups: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self)
        check_choice("aggregation", self.aggregation, get_args(Aggregation))

    def estimator(self) -> RLOO:
        """The advantages alone, for an engine without our policies."""
        return RLOO(beta=self.surrogate.beta)

    def build(self, policy: Policy, accelerator: Accelerator | None = None) -> PolicyGradient:
        """Return a new learner for ``policy``."""
        return PolicyGradient(
            policy, self.estimator(), surrogate=self.surrogate, aggregation=self.aggregation, accelerator=accelerator
        )
