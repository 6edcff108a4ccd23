"""GRPO: the reward of each action compared with its group's, without a critic (arXiv:2402.03300).

1. As published (sec. 4.1, eq. 3 and 4, outcome supervision): A = (r - mean) / std over the rows of a group, the same at
   every token; the clipped objective with a mean over each sequence; the KL penalty as a k3 term of the loss.
2. ``dr-grpo`` in the registry is ``scale="none", aggregation="sum"`` (arXiv:2503.20783): dividing by the deviation
   gives more weight to prompts that are nearly always or never solved, and dividing by the length gives less weight to
   the tokens of long wrong answers, which then grow. The paper divides the sum by a constant length; here nothing
   divides it, since AdamW ignores a constant factor, up to the clipping of the gradient's norm.
3. Different: a group is the rows of one agent in one turn with the same prompt (or labels, see ``samples``). They come
   from several games per prompt; a row alone in its group has advantage 0.
4. Different: the deviation is the population's and at least 1e-4; one update per batch of games; learning rate, beta
   and AdamW's settings are this project's, to compare like with like (published: beta 0.04, 64 rows per group).
5. Different: an update in which every row equals its group's mean is skipped and counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from accelerate.accelerator import Accelerator
from torch import Tensor

from waltz_env.algorithms.advantages import group_advantages
from waltz_env.algorithms.estimator import Estimator
from waltz_env.algorithms.losses import KL, Aggregation
from waltz_env.algorithms.policy_gradient import PolicyGradient
from waltz_env.algorithms.protocols import Policy
from waltz_env.algorithms.surrogate import SurrogateConfig
from waltz_env.algorithms.update_batch import UpdateBatch
from waltz_env.checks import check_choice, check_settings

Scale = Literal["group", "none"]


@dataclass(frozen=True, slots=True)
class GRPO(Estimator):
    """The advantages of GRPO, divided by the group's standard deviation if ``scaled``."""

    scaled: bool = True
    kl: ClassVar[KL] = "k3"
    needs_groups: ClassVar[bool] = True

    def advantages(self, batch: UpdateBatch) -> Tensor:
        moments = batch.reward_moments()
        return batch.spread(group_advantages(batch.groups, batch.rewards, moments=moments, scaled=self.scaled))


@dataclass(frozen=True, slots=True)
class GRPOConfig:
    """Settings of GRPO.

    Attributes:
        scale: whether an advantage is in units of its ``"group"``'s standard deviation, or of the reward (``"none"``).
        aggregation: how the losses of tokens add up, see ``losses.token_weights``.
        surrogate: settings that all algorithms share.
    """

    scale: Scale = "group"
    aggregation: Aggregation = "sequence"
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    needs_groups: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self)
        check_choice("scale", self.scale, get_args(Scale))
        check_choice("aggregation", self.aggregation, get_args(Aggregation))

    def estimator(self) -> GRPO:
        """The advantages alone, for an engine without our policies."""
        return GRPO(scaled=self.scale == "group")

    def build(self, policy: Policy, accelerator: Accelerator | None = None) -> PolicyGradient:
        """Return a new learner for ``policy``."""
        return PolicyGradient(
            policy, self.estimator(), surrogate=self.surrogate, aggregation=self.aggregation, accelerator=accelerator
        )
