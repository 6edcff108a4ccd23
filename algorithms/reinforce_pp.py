"""REINFORCE++ for one agent of the game; the two-agent learner of arXiv:2510.08240, sec. 4, is one of these for each.

1. As the paper: the clipped objective of eq. 4 with a mean over each sequence; the reward of the whole action at every
   token, less the KL penalty still to come; no critic; advantages normalised over all tokens of all rows of THIS
   agent's batch, never pooled with another's; learning rate 5e-7, beta 0.01, eps 0.2.
2. As OpenRLHF's REINFORCE++ (arXiv:2501.03262), where the paper is silent: see the head of ``surrogate``; population
   variance with floor 1e-8. ``aggregation="token"`` is its loss.
3. REINFORCE++-baseline, in the registry ``reinforce++-baseline``, is ``baseline="group", kl_in="loss"``: reward minus
   the mean of the row's group, normalised over the batch and not over the group, and a k2 term in the loss, whose
   gradient is that of the KL. A group is rows of one agent, turn and prompt (or verdict, see ``samples``). The two
   settings are apart: a baseline with the penalty in the reward is possible and is not published.
4. Different: an update whose rewards, after the baseline, are all equal is skipped and counted. Normalisation would
   blow what is left, the noise of the KL penalty, up to unit size. ``min_reward_std=0`` never skips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from accelerate.accelerator import Accelerator
from torch import Tensor

from waltz_env.algorithms.advantages import returns_to_go
from waltz_env.algorithms.protocols import Metrics, Policy, Sample
from waltz_env.algorithms.rollouts import agents_to_learn, lone_rows, summary
from waltz_env.algorithms.surrogate import Surrogate, SurrogateConfig


@dataclass(frozen=True, slots=True)
class ReinforcePPConfig(SurrogateConfig):
    """Settings of REINFORCE++; the defaults are the paper's and, where it is silent, OpenRLHF's.

    Attributes:
        baseline: ``"none"``, or the mean reward of the row's ``"group"``.
        kl_in: whether the penalty is part of the ``"reward"`` (k1) or of the ``"loss"`` (k2).
    """

    baseline: Literal["none", "group"] = "none"
    kl_in: Literal["reward", "loss"] = "reward"

    def build(self, policy: Policy, accelerator: Accelerator | None = None) -> ReinforcePP:
        """A new learner for ``policy``."""
        return ReinforcePP(policy, self, accelerator)


class ReinforcePP:
    """REINFORCE++ on one policy; implements ``Learner``. Arguments and errors as of ``Surrogate``."""

    def __init__(self, policy: Policy, config: ReinforcePPConfig, accelerator: Accelerator | None = None) -> None:
        self.policy = policy
        self.config = config
        self._surrogate = Surrogate(policy, config, accelerator)

    def update(self, samples: Sequence[Sample]) -> Metrics:
        """One update from the rows of one batch of games; adds one to ``policy.version`` unless it is skipped.

        Returns:
            Over the rows of all processes: ``skipped`` (1 or 0), what ``rollouts.summary`` says of the rows and, with a
            baseline of the group, ``lone_rows`` (share of rows alone in their group); where not skipped also what
            ``Surrogate.rollouts`` and ``Surrogate.improve`` say.
        """
        config, surrogate = self.config, self._surrogate
        rows = surrogate.rows(samples)
        metrics = summary(rows, self.policy.version) | (lone_rows(rows) if config.baseline == "group" else {})
        grouped = surrogate.group_moments(samples, [sample.reward for sample in samples])
        baselines = {group: each.mean if config.baseline == "group" else 0.0 for group, each in grouped.items()}
        learning = agents_to_learn(rows, [row.reward - baselines[row.group] for row in rows], config.min_reward_std)
        if not learning:
            return metrics | {"skipped": 1.0}
        rollouts, known = surrogate.rollouts([sample for sample in samples if sample.agent in learning])
        rewards = [sample.reward - baselines[sample.group] for sample in rollouts.samples]
        in_reward = config.kl_in == "reward"
        returns = returns_to_go(rollouts.token_rewards(rewards, config.beta if in_reward else 0.0), rollouts.mask)
        advantages = surrogate.normalise(rollouts, returns)
        learned = surrogate.improve(rollouts, advantages, kl=None if in_reward else "k2")
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
