"""The policy-gradient learner: facts of all samples, advantages from an estimator, and the clipped objective.

1. An algorithm is an ``Estimator``; every step here is the same for all of them.
2. Samples may come from several agents that play the same policy. Statistics are per agent, never pooled, because the
   agents' rewards are not on one scale.
3. Facts of the samples (agent, turn, group, reward, length, version) are gathered over processes once per update. Every
   process then takes the same decisions from the same list, and sums moments where more is needed. Tokens and
   log-probabilities stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from accelerate.accelerator import Accelerator
from torch import Tensor

from waltz_env.algorithms.batches import Step, deal, pad
from waltz_env.algorithms.critic import Critic, CriticConfig
from waltz_env.algorithms.estimator import Estimator
from waltz_env.algorithms.logprobs import known_logprobs, trainer_logprobs
from waltz_env.algorithms.losses import Aggregation
from waltz_env.algorithms.processes import Processes
from waltz_env.algorithms.protocols import Metrics, Policy, Sample
from waltz_env.algorithms.surrogate import Surrogate, SurrogateConfig
from waltz_env.algorithms.update_batch import SampleFacts, UpdateBatch, lone_rows, summary


class PolicyGradient:
    """Policy gradient on one policy, with the advantages of ``estimator``; implements ``Learner``.

    Args:
        policy: policy to train; its trainable parameters are float32. It must not be wrapped, nor sharded by anything
            but ``LanguageModelPolicy.shard``.
        estimator: computes the advantages; what makes the algorithm.
        surrogate: settings of the clipped objective and the optimizer.
        aggregation: how the losses of tokens add up: mean over each ``"sequence"``, mean over every ``"token"``, or the
            ``"sum"`` over each sequence (see ``losses.token_weights``).
        critic: settings of a critic, for an estimator that needs values.
        state_size: number of values of ``Sample.state`` that the critic reads beside the agent's own observation.
        accelerator: gives mixed precision and the other processes, each of which updates with its own share of the
            samples. None: one process, in the precision of the weights.

    Raises:
        UsageError: nothing to train, sharded weights, weights or mixed precision in which small updates are lost,
            accelerate configured to shard models, temperature 0, or a critic on a policy without features.
    """

    def __init__(
        self,
        policy: Policy,
        estimator: Estimator,
        *,
        surrogate: SurrogateConfig,
        aggregation: Aggregation = "sequence",
        critic: CriticConfig | None = None,
        state_size: int = 0,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.policy = policy
        self.estimator = estimator
        self.config = surrogate
        self._processes = Processes(accelerator, parameters=policy.parameters())
        self._surrogate = Surrogate(policy, surrogate, aggregation=aggregation, processes=self._processes)
        self._critic = None
        if critic is not None:
            self._critic = Critic(policy, critic, processes=self._processes, state_size=state_size)

    def update(self, samples: Sequence[Sample]) -> Metrics:
        """Make one update from the samples of one batch of games; adds one to ``policy.version`` unless skipped.

        Returns:
            Over the samples of all processes: ``skipped`` (1 or 0), what ``update_batch.summary`` reports and, if the
            estimator compares within groups, ``lone_rows`` (share of samples alone in their group). Unless skipped,
            also what ``known_logprobs``, ``Surrogate.improve``, the estimator and ``Critic.fit`` report.
        """
        config, estimator = self.config, self.estimator
        all_facts = self._processes.gather([SampleFacts.of(sample) for sample in samples])
        metrics, learning = what_to_learn(
            estimator, all_facts, version=self.policy.version, min_std=config.min_reward_std
        )
        if not learning:
            return metrics
        rows = [sample for sample in samples if sample.agent in learning]

        # What is known of their tokens: log-probabilities under pi_old and the reference.
        steps = deal(
            rows,
            minibatches=config.minibatches,
            tokens_per_microbatch=config.tokens_per_microbatch,
            device=self.policy.device,
            processes=self._processes,
        )
        _, mask = pad([sample.logprobs for sample in rows])
        logprobs, known = known_logprobs(
            rows,
            score=lambda reference: trainer_logprobs(
                self.policy, mask, steps=steps, config=config, processes=self._processes, reference=reference
            ),
            tokens=sum(step.tokens for step in steps),
            config=config,
            processes=self._processes,
        )
        batch = UpdateBatch(
            facts=[SampleFacts.of(sample) for sample in rows],
            all_facts=all_facts,
            mask=logprobs.mask,
            old_logprobs=logprobs.old,
            reference_logprobs=logprobs.reference,
            sampler_weights=logprobs.sampler_weights,
            sum_moments=self._processes.sum_moments,
        )

        # Advantages, the update of the policy, and then the critic's: an action is judged by what V said before it.
        if self._critic is None:
            learned = self._improve(batch, steps)
        else:
            inputs = self._critic.inputs(rows, steps=steps, mask=batch.mask)
            batch = replace(batch, values=self._critic.values(inputs, mask=batch.mask))
            learned = self._improve(batch, steps)
            learned |= self._critic.fit(inputs, targets=estimator.value_targets(batch)[batch.mask])
        return metrics | known | learned | estimator.metrics(batch)

    def _improve(self, batch: UpdateBatch, steps: Sequence[Step]) -> Metrics:
        advantages = self.estimator.advantages(batch)
        return self._surrogate.improve(batch, advantages, steps=steps, kl=self.estimator.kl)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the optimizer, the estimator and the critic."""
        critic = {} if self._critic is None else self._critic.state_dict()
        return self._surrogate.state_dict() | dict(self.estimator.state_dict()) | critic

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state returned by ``state_dict``.

        Raises:
            CheckpointError: the state belongs to other parameters, or to another critic.
        """
        self._surrogate.load_state_dict(state)
        self.estimator.load_state_dict(state)
        if self._critic is not None:
            self._critic.load_state_dict(state)


def what_to_learn(
    estimator: Estimator, all_facts: Sequence[SampleFacts], *, version: int, min_std: float
) -> tuple[Metrics, set[str]]:
    """The first metrics of an update, and the agents that it learns from; none if the update is to be skipped.

    All processes decide alike, so none waits for one that has stopped.

    Args:
        estimator: takes note of the samples.
        all_facts: facts of the samples of all processes.
        version: the policy's present version.
        min_std: see ``Estimator.agents_to_learn``.
    """
    metrics = summary(all_facts, version)
    if estimator.needs_groups:
        metrics |= lone_rows(all_facts)
    estimator.observe(all_facts)
    learning = estimator.agents_to_learn(all_facts, min_std)
    return metrics | {"skipped": float(not learning)}, learning
