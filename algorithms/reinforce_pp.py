"""REINFORCE++ for one agent of the game; the two-agent learner of arXiv:2510.08240, sec. 4, is one of these per agent.

1. As the paper: the clipped objective of eq. 4 with a mean over each sequence; the reward of the whole action at every
   token, minus the KL penalty still to come; no critic; advantages normalized over all tokens of all rows of THIS
   agent's batch, never pooled with another agent's; learning rate 5e-7, beta 0.01, eps 0.2.
2. As OpenRLHF's REINFORCE++ (arXiv:2501.03262), where the paper is silent: see the head of ``surrogate``; population
   variance with floor 1e-8. ``aggregation="token"`` is its loss.
3. REINFORCE++-baseline, ``reinforce++-baseline`` in the registry, is ``baseline="group", kl_in="loss"``: reward minus
   the mean of the row's group, normalized over the batch and not over the group, and a k2 term in the loss, whose
   gradient is that of the KL. A group is the rows of one agent, turn and prompt (or labels, see ``samples``). The two
   settings are separate: a baseline with the penalty in the reward is possible and is not published.
4. Different: an update whose rewards, after the baseline, are all equal is skipped and counted. Normalization would
   blow what is left, the noise of the KL penalty, up to unit size. ``min_reward_std=0`` never skips.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from accelerate.accelerator import Accelerator
from torch import Tensor

from waltz_env.algorithms.advantages import returns_to_go
from waltz_env.algorithms.estimator import Estimator
from waltz_env.algorithms.losses import KL, Aggregation
from waltz_env.algorithms.policy_gradient import PolicyGradient
from waltz_env.algorithms.protocols import Policy
from waltz_env.algorithms.surrogate import SurrogateConfig
from waltz_env.algorithms.update_batch import UpdateBatch, centered_rewards
from waltz_env.checks import check_choice, check_settings

Baseline = Literal["none", "group"]
KLIn = Literal["reward", "loss"]


@dataclass(frozen=True, slots=True)
class ReinforcePP(Estimator):
    """The advantages of REINFORCE++; ``beta`` is the weight of the KL penalty in the reward, where there is no ``kl``.

    ``needs_groups`` says whether the baseline is the mean of the group.
    """

    beta: float
    needs_groups: bool = False
    kl: KL | None = None

    def advantages(self, batch: UpdateBatch) -> Tensor:
        rewards = batch.rewards
        if self.needs_groups:
            rewards = centered_rewards(batch.facts, moments=batch.reward_moments())
        beta = self.beta if self.kl is None else 0.0
        return batch.normalize(returns_to_go(batch.token_rewards(rewards, beta=beta), batch.mask))


@dataclass(frozen=True, slots=True)
class ReinforcePPConfig:
    """Settings of REINFORCE++; the defaults are the paper's and, where it is silent, OpenRLHF's.

    Attributes:
        baseline: ``"none"``, or the mean reward of the row's ``"group"``.
        kl_in: whether the penalty is part of the ``"reward"`` (k1) or of the ``"loss"`` (k2).
        aggregation: how the losses of tokens add up, see ``losses.token_weights``.
        surrogate: settings that all algorithms share.
    """

    baseline: Baseline = "none"
    kl_in: KLIn = "reward"
    aggregation: Aggregation = "sequence"
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)

    def __post_init__(self) -> None:
        check_settings(self)
        check_choice("baseline", self.baseline, get_args(Baseline))
        check_choice("kl_in", self.kl_in, get_args(KLIn))
        check_choice("aggregation", self.aggregation, get_args(Aggregation))

    @property
    def needs_groups(self) -> bool:
        """Whether the baseline is the mean of the group."""
        return self.baseline == "group"

    def estimator(self) -> ReinforcePP:
        """The advantages alone, for an engine without our policies."""
        return ReinforcePP(
            beta=self.surrogate.beta, needs_groups=self.needs_groups, kl="k2" if self.kl_in == "loss" else None
        )

    def build(self, policy: Policy, accelerator: Accelerator | None = None) -> PolicyGradient:
        """Return a new learner for ``policy``."""
        return PolicyGradient(
            policy, self.estimator(), surrogate=self.surrogate, aggregation=self.aggregation, accelerator=accelerator
        )
