"""GRPO: the reward of each action against those of its group, without a critic (arXiv:2402.03300).

1. As published (sec. 4.1, eq. 3 and 4, outcome supervision): A = (r - mean) / std over the rows of a group, the same at
   every token; the clipped objective with a mean over each sequence; the KL penalty as a k3 term of the loss.
2. ``dr-grpo`` of the registry is ``scale="none", aggregation="sum"`` (arXiv:2503.20783): dividing by the deviation
   weighs prompts that are nearly always or never solved more, dividing by the length weighs the tokens of long wrong
   answers less, so that they grow. It divides the sum by a constant length; here there is none, as AdamW is blind to a
   constant factor, up to the clipping of the gradient's norm.
3. Different: a group is rows of one agent in one turn, of the same prompt (or verdict, see ``samples``). Several games
   a prompt make them (``TrainConfig.games_per_prompt``); a row alone in its group has advantage 0.
4. Different: the deviation is the population's and at least 1e-4; one update an iteration, and learning rate, beta and
   AdamW's settings are those of the project, to compare like with like (published: beta 0.04, 64 rows a group).
5. Different: an update in which all rows equal their group's mean is skipped and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from accelerate.accelerator import Accelerator
from torch import Tensor

from waltz_env.algorithms.advantages import group_advantages
from waltz_env.algorithms.protocols import Metrics, Policy, Sample
from waltz_env.algorithms.rollouts import agents_to_learn, lone_rows, summary
from waltz_env.algorithms.surrogate import Surrogate, SurrogateConfig


@dataclass(frozen=True, slots=True)
class GRPOConfig(SurrogateConfig):
    """Settings of GRPO.

    Attributes:
        scale: whether an advantage is in units of its ``"group"``'s standard deviation, or of the reward (``"none"``).
    """

    scale: Literal["group", "none"] = "group"

    def build(self, policy: Policy, accelerator: Accelerator | None = None) -> GRPO:
        """A new learner for ``policy``."""
        return GRPO(policy, self, accelerator)


class GRPO:
    """GRPO on one policy; implements ``Learner``. Arguments and errors as of ``Surrogate``."""

    def __init__(self, policy: Policy, config: GRPOConfig, accelerator: Accelerator | None = None) -> None:
        self.policy = policy
        self.config = config
        self._surrogate = Surrogate(policy, config, accelerator)

    def update(self, samples: Sequence[Sample]) -> Metrics:
        """One update from the rows of one batch of games; adds one to ``policy.version`` unless it is skipped.

        Returns:
            Over the rows of all processes: ``skipped`` (1 or 0), ``lone_rows`` (share of rows alone in their group) and
            what ``rollouts.summary`` says of the rows; where not skipped also what ``Surrogate.rollouts`` and
            ``Surrogate.improve`` say.
        """
        surrogate = self._surrogate
        rows = surrogate.rows(samples)
        metrics = summary(rows, self.policy.version) | lone_rows(rows)
        moments = surrogate.group_moments(samples, [sample.reward for sample in samples])
        learning = agents_to_learn(
            rows, [row.reward - moments[row.group].mean for row in rows], self.config.min_reward_std
        )
        if not learning:
            return metrics | {"skipped": 1.0}
        rollouts, known = surrogate.rollouts([sample for sample in samples if sample.agent in learning])
        advantages = group_advantages(
            [sample.group for sample in rollouts.samples],
            [sample.reward for sample in rollouts.samples],
            of=moments,
            scaled=self.config.scale == "group",
        )
        learned = surrogate.improve(rollouts, rollouts.spread(advantages), kl="k3")
        return metrics | {"skipped": 0.0} | known | learned

    def state_dict(self) -> dict[str, Tensor]:
        """The state of its ``Surrogate``."""
        return self._surrogate.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what ``state_dict`` gave.

        Raises:
            CheckpointError: it is of another set of parameters.
        """
        self._surrogate.load_state_dict(state)
