"""The learner of a policy on a service that makes forward passes, gradients and optimizer steps itself.

1. Advantages come from the estimators that every other learner has, and the KL penalty is taken against the
   service's base model. The service computes the clipped objective, -min(s A, clip(s, 1 - eps, 1 + eps) A), sums it
   over the tokens of all rows, and steps with AdamW.
2. Everything that scales a token's loss is therefore part of its advantage: the weights by which losses add up
   (``losses.token_weights``) and the correction for the sampler's precision.
3. So is a KL term of the loss: its derivative at pi_old is subtracted, beta-fold. That is the term's gradient in the
   one step of an update that starts at pi_old; an update of more steps refuses such an estimator. With
   ``old_logprobs="sampler"`` it is off by the sampler's gap.
4. Different from ``PolicyGradient``: ``entropy`` is estimated by the mean of -log pi(y) over the sampled tokens, and
   ``grad_norm`` is missing where the service does not tell it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from waltz_env.algorithms.batches import pad
from waltz_env.algorithms.estimator import Estimator
from waltz_env.algorithms.logprobs import known_logprobs
from waltz_env.algorithms.losses import (
    KL,
    Aggregation,
    clipped_surrogate,
    kl_estimate,
    probability_ratio,
    token_weights,
)
from waltz_env.algorithms.optimizer import schedule_factor
from waltz_env.algorithms.policy_gradient import what_to_learn
from waltz_env.algorithms.processes import Processes
from waltz_env.algorithms.protocols import LearnerConfig, Metrics, RemotePolicy, Sample
from waltz_env.algorithms.surrogate import SurrogateConfig
from waltz_env.algorithms.update_batch import SampleFacts, UpdateBatch
from waltz_env.errors import DivergedError, UsageError


def remote_learner(config: LearnerConfig, policy: RemotePolicy) -> RemoteLearner:
    """The learner that ``config`` describes, for a policy on a service.

    Raises:
        UsageError: the algorithm cannot learn there, see ``check_remote``.
    """
    check_remote(config)
    settings: SurrogateConfig = config.surrogate  # type: ignore[attr-defined]  # checked above
    estimator: Estimator = config.estimator()  # type: ignore[attr-defined]
    return RemoteLearner(policy, estimator, surrogate=settings, aggregation=getattr(config, "aggregation", "sequence"))


def check_remote(config: LearnerConfig) -> None:
    """Check that an algorithm can learn on a service.

    Raises:
        UsageError: it has no estimator by itself, needs a critic beside the policy, or makes several steps per update
            with a KL term in the loss.
    """
    name = type(config).__name__
    surrogate = getattr(config, "surrogate", None)
    if not isinstance(surrogate, SurrogateConfig) or not callable(getattr(config, "estimator", None)):
        raise UsageError(
            f"On a service only advantages are computed here, and {name} has no method `estimator` and no settings "
            "`surrogate`. Use an included algorithm, or make yours an Estimator (docs/extending.md)."
        )
    if getattr(config, "critic", None) is not None:
        raise UsageError(
            f"{name} has a critic, which reads hidden states of the policy, and no service gives them. Use an "
            "algorithm without a critic."
        )
    kl = config.estimator().kl  # type: ignore[attr-defined]  # checked above
    if kl is not None and surrogate.beta > 0 and surrogate.epochs * surrogate.minibatches > 1:
        raise UsageError(
            f"{name} has a KL term in its loss. A service takes it as part of the advantages, which holds for one step "
            "per update. Set epochs and minibatches to 1, or choose an algorithm with the penalty in the reward."
        )


class RemoteLearner:
    """Policy gradient on a policy whose weights are on a service; implements ``Learner``.

    It runs in one process. The policy begins with a fresh optimizer.

    Args:
        policy: policy to train.
        estimator: computes the advantages.
        surrogate: settings of the clipped objective and the optimizer; those that limit memory have no effect.
        aggregation: how the losses of tokens add up, see ``losses.token_weights``.
    """

    def __init__(
        self,
        policy: RemotePolicy,
        estimator: Estimator,
        *,
        surrogate: SurrogateConfig,
        aggregation: Aggregation = "sequence",
    ) -> None:
        self.policy = policy
        self.estimator = estimator
        self.config = surrogate
        self.updates = 0
        self._aggregation = aggregation
        policy.restart_optimizer()

    def update(self, samples: Sequence[Sample]) -> Metrics:
        """Make one update from the samples of one batch of games; adds one to ``policy.version`` unless skipped.

        Returns:
            What ``PolicyGradient.update`` returns, up to the differences at the head of this file.

        Raises:
            DivergedError: the service computed log-probabilities that are NaN or infinite. It has stepped already.
        """
        config, estimator = self.config, self.estimator
        all_facts = [SampleFacts.of(sample) for sample in samples]
        metrics, learning = what_to_learn(
            estimator, all_facts, version=self.policy.version, min_std=config.min_reward_std
        )
        if not learning:
            return metrics
        rows = [sample for sample in samples if sample.agent in learning]
        logprobs, known = known_logprobs(
            rows,
            score=lambda reference: pad(self.policy.logprobs(_ids(rows), reference=reference))[0],
            tokens=sum(len(row.token_ids) for row in rows),
            config=config,
            processes=Processes(None),
        )
        batch = UpdateBatch(
            facts=[SampleFacts.of(sample) for sample in rows],
            all_facts=all_facts,
            mask=logprobs.mask,
            old_logprobs=logprobs.old,
            reference_logprobs=logprobs.reference,
            sampler_weights=logprobs.sampler_weights,
        )
        learned = self._improve(rows, batch, estimator.advantages(batch))
        return metrics | known | learned | estimator.metrics(batch)

    def _improve(self, rows: Sequence[Sample], batch: UpdateBatch, advantages: Tensor) -> Metrics:
        """Have the service make all optimizer steps of one update, and add one to ``policy.version``."""
        config = self.config
        rate = config.learning_rate * schedule_factor(
            self.updates, config.schedule, warmup_steps=config.warmup_steps, total_steps=config.total_steps
        )
        slope = _slope(batch, kl=self.estimator.kl, beta=config.beta)
        hands = [list(range(first, len(rows), config.minibatches)) for first in range(config.minibatches)]
        tallies: list[_Tally] = []
        for hand in [hand for hand in hands if hand] * config.epochs:
            mask = batch.mask[hand]
            weights = token_weights(mask, self._aggregation, rows=len(hand), tokens=int(mask.sum()))
            if batch.sampler_weights is not None:
                weights = weights * batch.sampler_weights[hand]
            told, norm = self.policy.step(
                _ids([rows[i] for i in hand]),
                old_logprobs=_rows(batch.old_logprobs[hand], mask),
                advantages=_rows((advantages[hand] - slope[hand]) * weights, mask),
                clip=config.clip,
                learning_rate=rate,
                betas=config.betas,
                weight_decay=config.weight_decay,
                max_grad_norm=config.max_grad_norm,
            )
            logprobs = _table(told, mask)
            if not bool(logprobs.isfinite().all()):
                raise DivergedError(
                    "The service computed log-probabilities that are NaN or infinite, and has stepped already. Go back "
                    "to a checkpoint, and try a lower learning rate."
                )
            ratio = probability_ratio(logprobs, batch.old_logprobs[hand])
            losses = clipped_surrogate(ratio, advantages[hand], clip=config.clip)
            if self.estimator.kl is not None and batch.reference_logprobs is not None:
                estimate = kl_estimate(logprobs, batch.reference_logprobs[hand], estimate=self.estimator.kl)
                losses = losses + config.beta * estimate
            tallies.append(_Tally(float((losses * weights).sum()), -logprobs[mask], ratio[mask], norm))
        self.updates += 1
        self.policy.version += 1
        ratios = torch.cat([tally.ratio for tally in tallies])
        norms = [tally.grad_norm for tally in tallies if tally.grad_norm is not None]
        return {
            "loss": fmean(tally.loss for tally in tallies),
            "entropy": float(torch.cat([tally.surprise for tally in tallies]).mean()),
            "ratio_mean": float(ratios.mean()),
            "ratio_max": float(ratios.max()),
            "clip_fraction": float(((ratios - 1).abs() > config.clip).float().mean()),
            **({"grad_norm": fmean(norms)} if norms else {}),
            "learning_rate": rate,
        }

    def state_dict(self) -> dict[str, Tensor]:
        """The number of updates, which is the position in the schedule, and the estimator's state.

        The service's optimizer is part of the policy's state.
        """
        return {"updates": torch.tensor(self.updates)} | dict(self.estimator.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state returned by ``state_dict``."""
        self.updates = int(state["updates"])
        self.estimator.load_state_dict(state)


class _Tally(NamedTuple):
    """One step: its loss, -log pi (M,) and ratio (M,) of its M tokens, and the norm of its gradient, if it is known."""

    loss: float
    surprise: Tensor
    ratio: Tensor
    grad_norm: float | None


def _slope(batch: UpdateBatch, *, kl: KL | None, beta: float) -> Tensor:
    """Derivative of the loss's KL term by each token's log-probability, at pi_old: (N, T), 0 without such a term."""
    if kl is None or batch.reference_logprobs is None:
        return torch.zeros(batch.mask.shape)
    logprobs = batch.old_logprobs.clone().requires_grad_(True)
    term = beta * kl_estimate(logprobs, batch.reference_logprobs, estimate=kl).sum()
    return torch.autograd.grad(term, logprobs)[0]


def _ids(rows: Sequence[Sample]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(row.prompt_ids, row.token_ids) for row in rows]


def _rows(values: Tensor, mask: Tensor) -> list[list[float]]:
    """The values (B, T) under the mask, per row."""
    return [row[of_row].tolist() for row, of_row in zip(values, mask, strict=True)]


def _table(rows: Sequence[Sequence[float]], mask: Tensor) -> Tensor:
    """What ``_rows`` returns as values (B, T) again, 0 outside the mask."""
    values = torch.zeros(mask.shape)
    values[mask] = torch.tensor([value for row in rows for value in row])
    return values
