"""The clipped objective on one policy: what every learner here has in common, once its advantages are known.

1. As PPO (arXiv:1707.06347, eq. 7), in the form of arXiv:2510.08240, eq. 4: -min(s A, clip(s, 1 - eps, 1 + eps) A) for
   each token, s the ratio of its probability to that under pi_old.
2. Log-probabilities of the sampler serve as pi_old, which saves a pass; ``old_logprobs="trainer"`` computes them again,
   for a sampler of another precision or another implementation. ``sampler_correction="truncated"`` then weights each
   token's loss by min(pi_old of the trainer / pi of the sampler, ``sampler_cap``): truncated importance sampling
   (Ionides 2008), as it is used for this gap.
3. As OpenRLHF, where papers are silent: KL estimates in float32 clamped to +-10, the log-ratio clamped to +-20, AdamW
   with betas 0.9 and 0.95, gradient norm 1.
4. With one epoch of one minibatch, the default, the ratio is 1 and the clip inert.
5. Rows may be of several agents that play the same policy. Statistics are of one agent's rows, never pooled.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from accelerate.accelerator import Accelerator
from torch import Tensor, nn

from waltz_env.algorithms.advantages import Moments, group_moments, normalise
from waltz_env.algorithms.batches import (
    Batch,
    collate,
    completion_logits,
    microbatches,
    pad,
    token_entropy,
    token_logprobs,
)
from waltz_env.algorithms.losses import (
    KL,
    Aggregation,
    clipped_surrogate,
    kl_estimate,
    probability_ratio,
    token_weights,
)
from waltz_env.algorithms.optimizer import Schedule, load_moments, moments_of, schedule_factor
from waltz_env.algorithms.processes import Processes
from waltz_env.algorithms.protocols import Metrics, Policy, Sample
from waltz_env.algorithms.rollouts import Rollouts, Row, Step
from waltz_env.errors import UsageError


@dataclass(frozen=True, slots=True)
class SurrogateConfig:
    """Settings that every learner here has; those of its algorithm stand in its own config, which extends this one.

    Attributes:
        learning_rate: peak learning rate of AdamW.
        beta: weight of the KL penalty against the reference policy; 0 needs no reference.
        clip: eps, how far the probability ratio may leave 1.
        aggregation: how token losses add up: mean over each ``"sequence"``, over every ``"token"``, or the ``"sum"`` of
            each sequence.
        old_logprobs: pi_old as the ``"sampler"`` recorded it, or computed again by the ``"trainer"``.
        sampler_correction: ``"truncated"`` importance weights for the gap between the two, or ``"none"``.
        sampler_cap: largest such weight.
        min_reward_std: an agent whose rewards, after the baseline, spread less than this is left out of the update.
        epochs: passes over the rows of one update.
        minibatches: optimiser steps of one pass; rows are dealt out to them in turn.
        tokens_per_microbatch: padded tokens of one forward pass; bounds memory and leaves the result as it is.
        betas: AdamW's moment decays.
        weight_decay: AdamW's decoupled weight decay.
        max_grad_norm: gradients are clipped to this global norm.
        schedule: of the learning rate, over updates.
        warmup_steps: updates over which the learning rate rises linearly.
        total_steps: update at which the ``"linear"`` schedule reaches 0.
    """

    learning_rate: float = 5e-7
    beta: float = 0.01
    clip: float = 0.2
    aggregation: Aggregation = "sequence"
    old_logprobs: Literal["sampler", "trainer"] = "sampler"
    sampler_correction: Literal["none", "truncated"] = "none"
    sampler_cap: float = 2.0
    min_reward_std: float = 1e-6
    epochs: int = 1
    minibatches: int = 1
    tokens_per_microbatch: int = 16_384
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    total_steps: int = 0

    def __post_init__(self) -> None:
        if self.schedule == "linear" and self.total_steps < 1:
            raise UsageError("The linear schedule needs total_steps, the number of updates after which it is at 0.")
        if self.epochs < 1 or self.minibatches < 1 or self.learning_rate < 0 or self.beta < 0 or self.clip <= 0:
            raise UsageError(
                "epochs and minibatches must be 1 or more, learning_rate and beta 0 or more, clip above 0; got "
                f"epochs={self.epochs}, minibatches={self.minibatches}, learning_rate={self.learning_rate}, "
                f"beta={self.beta}, clip={self.clip}."
            )
        if self.sampler_correction == "truncated" and (self.old_logprobs == "sampler" or self.sampler_cap <= 0):
            raise UsageError(
                "sampler_correction='truncated' needs old_logprobs='trainer' and sampler_cap above 0; got "
                f"old_logprobs={self.old_logprobs!r}, sampler_cap={self.sampler_cap}."
            )


class Surrogate:
    """One policy, its optimiser and the clipped objective; learners are made of one of these and their advantages.

    Args:
        policy: what is trained; its trainable parameters are float32.
        config: the settings.
        accelerator: gives mixed precision and the other processes, each of which updates with its own share of the
            rows. None: one process, the precision of the weights. The policy must not be wrapped or sharded.

    Raises:
        UsageError: nothing to train, weights or mixed precision in which small updates get lost, or temperature 0.
    """

    def __init__(self, policy: Policy, config: SurrogateConfig, accelerator: Accelerator | None = None) -> None:
        self.policy = policy
        self.config = config
        self.updates = 0
        self.processes = Processes(accelerator)
        self._parameters = policy.parameters()
        _check(policy, self._parameters, accelerator)
        self.processes.share_weights(self._parameters)
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )

    def rows(self, samples: Sequence[Sample]) -> list[Row]:
        """The rows of all processes."""
        return self.processes.gather(
            [Row(s.agent, s.turn, s.group, s.reward, len(s.token_ids), s.version) for s in samples]
        )

    def rollouts(self, samples: Sequence[Sample]) -> tuple[Rollouts, Metrics]:
        """Prepares an update.

        Returns:
            The rollouts, and over all processes ``kl`` (k1) and ``kl_k3`` of pi_old from the reference a token (beta
            above 0), and where the trainer recomputed pi_old: ``sampler_gap`` and ``sampler_gap_max`` (mean and largest
            absolute difference of a log-probability to the sampler's, nats), ``mismatch_kl`` (k3, of the sampler from
            the trainer, a token) and, with the correction, ``sampler_weight`` (mean).
        """
        config = self.config
        steps = self._steps(samples)
        sampled, mask = pad([sample.logprobs for sample in samples])
        old = sampled if config.old_logprobs == "sampler" else self._logprobs(steps, mask)
        reference = self._logprobs(steps, mask, reference=True) if config.beta > 0 else None
        sums = {}
        if reference is not None:
            for name, estimator in _REPORTED.items():
                sums[name] = kl_estimate(old, reference, estimator)[mask].sum().item()
        largest = []
        weights = None
        if config.old_logprobs == "trainer":
            gap = (old - sampled)[mask].abs()
            largest = [gap.max().item()] if len(gap) else []
            sums["sampler_gap"] = gap.sum().item()
            sums["mismatch_kl"] = kl_estimate(sampled, old, "k3")[mask].sum().item()
            if config.sampler_correction == "truncated":
                weights = probability_ratio(old, sampled).clamp(max=config.sampler_cap)
                sums["sampler_weight"] = weights[mask].sum().item()
        gathered = self.processes.gather([sums])
        tokens = sum(step.tokens for step in steps)
        known = {name: sum(part[name] for part in gathered) / tokens for name in sums}
        everywhere = self.processes.gather(largest)
        if everywhere:
            known["sampler_gap_max"] = max(everywhere)
        return Rollouts(samples, steps, mask, old, reference, weights), known

    def normalise(self, rollouts: Rollouts, values: Tensor) -> Tensor:
        """Values (N, T) at unit scale: mean and deviation are over all tokens of all rows of the same agent."""
        agents = [sample.agent for sample in rollouts.samples]
        rows = {agent: [i for i, each in enumerate(agents) if each == agent] for agent in dict.fromkeys(agents)}
        parts = self.processes.gather([(a, Moments.of(values[i], rollouts.mask[i])) for a, i in rows.items()])
        normalised = torch.zeros_like(values)
        for agent, i in rows.items():
            moments = Moments.merge([part for name, part in parts if name == agent])
            normalised[i] = normalise(values[i], rollouts.mask[i], moments)
        return normalised

    def group_moments(self, samples: Sequence[Sample], values: Sequence[float]) -> dict[Hashable, Moments]:
        """The moments of ``values``, one a sample, in each group of rows, over all processes."""
        everyone = self.processes.gather([(s.group, value) for s, value in zip(samples, values, strict=True)])
        return group_moments([group for group, _ in everyone], [value for _, value in everyone])

    def improve(self, rollouts: Rollouts, advantages: Tensor, *, kl: KL | None = None) -> Metrics:
        """All epochs over ``rollouts``; adds one to ``policy.version``.

        Args:
            rollouts: as prepared.
            advantages: (N, T) float32.
            kl: the estimate whose beta-fold is added to the loss; None: the penalty is in the advantages, or nowhere.

        Returns:
            Over the tokens and optimiser steps of all processes: ``loss``, ``entropy`` (nats a token), ``ratio_mean``,
            ``ratio_max``, ``clip_fraction``, ``grad_norm`` (before clipping), ``learning_rate``.
        """
        config = self.config
        factor = schedule_factor(
            self.updates, config.schedule, warmup_steps=config.warmup_steps, total_steps=config.total_steps
        )
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        tallies: list[_Tally] = []
        norms: list[float] = []
        for step in rollouts.steps * config.epochs:
            self._optimizer.zero_grad()
            tallies += [self._backward(batch, step, rollouts, advantages, kl) for batch in step.batches]
            self.processes.sum_gradients(self._parameters)
            norm = nn.utils.clip_grad_norm_(self._parameters, config.max_grad_norm, error_if_nonfinite=True)
            norms.append(float(norm))
            self._optimizer.step()
        self.updates += 1
        self.policy.version += 1
        everyone = self.processes.gather(tallies)
        tokens = sum(step.tokens for step in rollouts.steps) * config.epochs
        return {
            "loss": sum(tally.loss for tally in everyone) / len(norms),
            "entropy": sum(tally.entropy for tally in everyone) / tokens,
            "ratio_mean": sum(tally.ratio for tally in everyone) / tokens,
            "ratio_max": max(tally.ratio_max for tally in everyone),
            "clip_fraction": sum(tally.clipped for tally in everyone) / tokens,
            "grad_norm": float(np.mean(norms)),
            "learning_rate": config.learning_rate * factor,
        }

    def state_dict(self) -> dict[str, Tensor]:
        """AdamW's moments and the number of updates, which places the schedule."""
        return moments_of(self._optimizer, self._parameters) | {"updates": torch.tensor(self.updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what ``state_dict`` gave; other keys of ``state`` are left alone.

        Raises:
            CheckpointError: it is of another set of parameters.
        """
        load_moments(self._optimizer, self._parameters, state)
        self.updates = int(state["updates"])

    def _steps(self, samples: Sequence[Sample]) -> list[Step]:
        """The rows of this process, dealt out to the optimiser steps of one epoch and cut into micro-batches."""
        dealt = [range(m, len(samples), self.config.minibatches) for m in range(self.config.minibatches)]
        counts = self.processes.gather([[(len(p), sum(len(samples[i].token_ids) for i in p)) for p in dealt]])
        steps = []
        for part, sizes in zip(dealt, zip(*counts, strict=True), strict=True):
            lengths = [(len(samples[i].prompt_ids), len(samples[i].token_ids)) for i in part]
            batches = [
                collate(samples, [part[i] for i in group], device=self.policy.device)
                for group in microbatches(lengths, self.config.tokens_per_microbatch)
            ]
            rows, tokens = (sum(column) for column in zip(*sizes, strict=True))
            steps.append(Step(batches, rows, tokens))
        return [step for step in steps if step.rows]

    @torch.no_grad()
    def _logprobs(self, steps: Sequence[Step], mask: Tensor, *, reference: bool = False) -> Tensor:
        """Log-probabilities of the sampled tokens now, or under the reference: (N, T) float32, 0 outside ``mask``."""
        found = torch.zeros(mask.shape)
        for batch in (batch for step in steps for batch in step.batches):
            with self.processes.autocast():
                logits = completion_logits(self.policy, batch, reference=reference)
            found[batch.rows, : batch.targets.shape[1]] = token_logprobs(logits, batch.targets).cpu()
        return found * mask

    def _backward(self, batch: Batch, step: Step, rollouts: Rollouts, advantages: Tensor, kl: KL | None) -> _Tally:
        """Adds the gradient of one micro-batch's share of the step's loss."""
        config, width = self.config, batch.targets.shape[1]

        def here(values: Tensor) -> Tensor:
            return values[batch.rows, :width].to(self.policy.device)

        with self.processes.autocast():
            logits = completion_logits(self.policy, batch)
        logprobs = token_logprobs(logits, batch.targets)
        ratio = probability_ratio(logprobs, here(rollouts.old_logprobs))
        losses = clipped_surrogate(ratio, here(advantages), config.clip)
        if kl is not None and rollouts.reference_logprobs is not None:
            losses = losses + config.beta * kl_estimate(logprobs, here(rollouts.reference_logprobs), kl)
        if rollouts.sampler_weights is not None:
            losses = losses * here(rollouts.sampler_weights)
        weights = token_weights(batch.mask, config.aggregation, rows=step.rows, tokens=step.tokens)
        loss = (losses * weights).sum()
        loss.backward()
        ratio = ratio.detach()[batch.mask]
        return _Tally(
            loss=loss.item(),
            entropy=token_entropy(logits)[batch.mask].sum().item(),
            ratio=ratio.sum().item(),
            ratio_max=ratio.max().item(),
            clipped=float(((ratio - 1).abs() > config.clip).sum()),
        )


_REPORTED: dict[str, KL] = {"kl": "k1", "kl_k3": "k3"}


class _Tally(NamedTuple):
    """Of one micro-batch: sums over its tokens, its share of the loss, and its largest ratio."""

    loss: float
    entropy: float
    ratio: float
    ratio_max: float
    clipped: float


def _check(policy: Policy, parameters: Sequence[nn.Parameter], accelerator: Accelerator | None) -> None:
    if not parameters:
        raise UsageError("The policy has no trainable parameters; add an adapter or unfreeze its weights.")
    narrow = sorted({str(p.dtype) for p in parameters if p.dtype != torch.float32})
    if narrow:
        raise UsageError(
            f"Trainable parameters must be float32, or small updates are rounded away; got {', '.join(narrow)}. Keep "
            "them in float32 and ask accelerate for mixed_precision='bf16'."
        )
    if accelerator is not None and accelerator.mixed_precision not in ("no", "bf16"):
        raise UsageError(f"mixed_precision must be 'no' or 'bf16'; got {accelerator.mixed_precision!r}.")
    if policy.temperature <= 0:
        raise UsageError(f"A policy that learns must sample at a temperature above 0; got {policy.temperature}.")
