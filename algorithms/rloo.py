"""RLOO: REINFORCE with the mean of the group's other rewards as baseline (arXiv:2402.14740).

1. As published: the whole completion is one action, its reward R(x, y) - beta log(pi(y) / pi_ref(y)); its baseline is
   the mean of that of the other rows of its group, which leaves the gradient unbiased; the loss is the log-probability
   of the whole completion (``aggregation="sum"``); no normalisation, no critic.
2. Different: the gradient goes through the clipped objective. In the one on-policy step of the default that is the same
   gradient, and with several epochs it keeps the ratio of each token near 1.
3. Different: a group is rows of one agent in one turn, of the same prompt (or verdict, see ``samples``). Several games
   a prompt make them (``TrainConfig.games_per_prompt``); a row alone in its group has advantage 0.
4. Different: an update in which all rewards of each group are equal is skipped and counted: what is left is KL noise.
5. Learning rate, beta and AdamW's settings are those of the project, to compare like with like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from accelerate.accelerator import Accelerator
from torch import Tensor

from waltz_env.algorithms.advantages import leave_one_out
from waltz_env.algorithms.losses import Aggregation
from waltz_env.algorithms.protocols import Metrics, Policy, Sample
from waltz_env.algorithms.rollouts import agents_to_learn, lone_rows, summary
from waltz_env.algorithms.surrogate import Surrogate, SurrogateConfig


@dataclass(frozen=True, slots=True)
class RLOOConfig(SurrogateConfig):
    """Settings of RLOO: those of every learner, the loss that of the whole completion."""

    aggregation: Aggregation = "sum"

    def build(self, policy: Policy, accelerator: Accelerator | None = None) -> RLOO:
        """A new learner for ``policy``."""
        return RLOO(policy, self, accelerator)


class RLOO:
    """RLOO on one policy; implements ``Learner``. Arguments and errors as of ``Surrogate``."""

    def __init__(self, policy: Policy, config: RLOOConfig, accelerator: Accelerator | None = None) -> None:
        self.policy = policy
        self.config = config
        self._surrogate = Surrogate(policy, config, accelerator)

    def update(self, samples: Sequence[Sample]) -> Metrics:
        """One update from the rows of one batch of games; adds one to ``policy.version`` unless it is skipped.

        Returns:
            As of ``GRPO.update``.
        """
        surrogate = self._surrogate
        rows = surrogate.rows(samples)
        metrics = summary(rows, self.policy.version) | lone_rows(rows)
        plain = surrogate.group_moments(samples, [sample.reward for sample in samples])
        learning = agents_to_learn(
            rows, [row.reward - plain[row.group].mean for row in rows], self.config.min_reward_std
        )
        if not learning:
            return metrics | {"skipped": 1.0}
        rollouts, known = surrogate.rollouts([sample for sample in samples if sample.agent in learning])
        groups = [sample.group for sample in rollouts.samples]
        penalised = rollouts.token_rewards([sample.reward for sample in rollouts.samples], self.config.beta)
        returns = penalised.sum(1).tolist()
        advantages = leave_one_out(groups, returns, of=surrogate.group_moments(rollouts.samples, returns))
        learned = surrogate.improve(rollouts, rollouts.spread(advantages))
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
