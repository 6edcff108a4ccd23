"""PPO with a critic for each agent, over tokens (arXiv:1707.06347): independent PPO, one learner an agent.

1. As published: the clipped objective (eq. 7) and generalised advantages (eq. 11; arXiv:1506.02438) with a learned V.
   As PPO on language models (InstructGPT, arXiv:2203.02155): a token is an action, the reward stands on the last token,
   the KL penalty at every token (k1), no discount; advantages are normalised over the batch, per agent.
2. Different: V is a small network on the frozen reference's last hidden states (see ``critic``), with an optimiser of
   its own, fitted after the advantages are computed. Published is a network of the policy's size, for which there is
   often no room beside the policy, or a head on the policy itself, which changes it for the value's sake.
3. Different: ``gae_lambda`` 1 (published 0.95): the advantage is return minus V, so that the error of a small critic
   adds variance and never bias.
4. Different: plain least squares, no clipping of the value loss, which did not help where it was measured
   (arXiv:2006.05990), no entropy bonus, one epoch of one minibatch as for every learner here.
5. Different: an episode is one turn of the game, not the game. Each turn is paid for itself, the critique for the
   revision that it led to.
6. Different: an update whose rewards are all equal is skipped and counted, the critic included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from accelerate.accelerator import Accelerator
from torch import Tensor

from waltz_env.algorithms.advantages import generalised_advantages
from waltz_env.algorithms.critic import Critic, CriticConfig
from waltz_env.algorithms.protocols import Metrics, Policy, Sample
from waltz_env.algorithms.rollouts import agents_to_learn, summary
from waltz_env.algorithms.surrogate import Surrogate, SurrogateConfig
from waltz_env.errors import UsageError


@dataclass(frozen=True, slots=True)
class PPOConfig(SurrogateConfig):
    """Settings of PPO with a critic.

    Attributes:
        gae_lambda: of generalised advantages, in [0, 1].
        critic: settings of the value function.
        state_size: numbers of ``Sample.state`` that V reads beside the agent's observation; 0 but for ``mappo``.
    """

    gae_lambda: float = 1.0
    critic: CriticConfig = field(default_factory=CriticConfig)
    state_size: int = 0

    def __post_init__(self) -> None:
        SurrogateConfig.__post_init__(self)
        if not 0 <= self.gae_lambda <= 1:
            raise UsageError(f"gae_lambda must lie in [0, 1]; got {self.gae_lambda}.")

    def build(self, policy: Policy, accelerator: Accelerator | None = None) -> PPO:
        """A new learner for ``policy``.

        Raises:
            UsageError: the policy has no features for a critic.
        """
        return PPO(policy, self, accelerator)


class PPO:
    """PPO with a critic on one policy; implements ``Learner``.

    Arguments and errors as of ``Surrogate`` and ``Critic``.
    """

    def __init__(self, policy: Policy, config: PPOConfig, accelerator: Accelerator | None = None) -> None:
        self.policy = policy
        self.config = config
        self._surrogate = Surrogate(policy, config, accelerator)
        self._critic = Critic(policy, config.critic, self._surrogate.processes, state_size=config.state_size)

    def update(self, samples: Sequence[Sample]) -> Metrics:
        """One update from the rows of one batch of games; adds one to ``policy.version`` unless it is skipped.

        Returns:
            Over the rows of all processes: ``skipped`` (1 or 0) and what ``rollouts.summary`` says of the rows; where
            not skipped also what ``Surrogate.rollouts``, ``Surrogate.improve`` and ``Critic.fit`` say.
        """
        surrogate = self._surrogate
        rows = surrogate.rows(samples)
        metrics = summary(rows, self.policy.version)
        learning = agents_to_learn(rows, [row.reward for row in rows], self.config.min_reward_std)
        if not learning:
            return metrics | {"skipped": 1.0}
        rollouts, known = surrogate.rollouts([sample for sample in samples if sample.agent in learning])
        rewards = rollouts.token_rewards([sample.reward for sample in rollouts.samples], self.config.beta)
        inputs = self._critic.inputs(rollouts)
        values = self._critic.values(inputs, rollouts.mask)
        advantages = generalised_advantages(rewards, values, rollouts.mask, decay=self.config.gae_lambda)
        learned = surrogate.improve(rollouts, surrogate.normalise(rollouts, advantages))
        fitted = self._critic.fit(inputs, (advantages + values)[rollouts.mask])
        return metrics | {"skipped": 0.0} | known | learned | fitted

    def state_dict(self) -> dict[str, Tensor]:
        """The state of its ``Surrogate`` and of its critic."""
        return self._surrogate.state_dict() | self._critic.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what ``state_dict`` gave.

        Raises:
            CheckpointError: it is of another set of parameters, or of another critic.
        """
        self._surrogate.load_state_dict(state)
        self._critic.load_state_dict(state)
