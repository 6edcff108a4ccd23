"""REINFORCE++ for one agent of the game; the two-agent learner of arXiv:2510.08240, sec. 4, is one of these for each.

1. As the paper: the clipped objective of eq. 4 with a mean over each sequence; the reward of the whole action at every
   token, less the KL penalty still to come; no critic; advantages normalised over all tokens of all rows of THIS
   agent's batch, never pooled with another's; learning rate 5e-7, beta 0.01, eps 0.2.
2. As OpenRLHF's REINFORCE++, where the paper is silent: k1 estimates in float32 clamped to +-10, the log-ratio clamped
   to +-20, population variance with floor 1e-8, AdamW with betas 0.9 and 0.95, gradient norm 1.
   ``aggregation="token"`` is its loss; ``baseline="group", kl_in="loss"`` its REINFORCE++-baseline (reward minus the
   mean of the row's group, and a k2 term in the loss).
3. Different: an update whose rewards, after the baseline, are all equal is skipped and counted. Normalisation would
   blow what is left, the noise of the KL penalty, up to unit size. ``min_reward_std=0`` never skips.
4. Different: log-probabilities of the sampler serve as pi_old, which saves a pass; ``old_logprobs="trainer"`` computes
   them again, for a sampler of another precision or another implementation. ``sampler_correction="truncated"`` then
   weights each token's loss by min(pi_old of the trainer / pi of the sampler, ``sampler_cap``): truncated importance
   sampling (Ionides 2008), as it is used for this gap.
5. With one epoch of one minibatch, the default and the paper's batch, the ratio is 1 and the clip inert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from accelerate.accelerator import Accelerator
from torch import Tensor, nn

from waltz_env.algorithms.advantages import Moments, group_means, normalise, returns_to_go, token_rewards
from waltz_env.algorithms.batches import (
    Batch,
    collate,
    completion_logits,
    microbatches,
    pad,
    token_entropy,
    token_logprobs,
)
from waltz_env.algorithms.kl import kl_estimate
from waltz_env.algorithms.losses import Aggregation, clipped_surrogate, probability_ratio, token_weights
from waltz_env.algorithms.optimizer import load_moments, moments_of
from waltz_env.algorithms.processes import Processes
from waltz_env.algorithms.protocols import Metrics, Policy, Sample
from waltz_env.algorithms.schedules import Schedule, schedule_factor
from waltz_env.errors import UsageError


@dataclass(frozen=True, slots=True)
class ReinforcePPConfig:
    """Settings of REINFORCE++; the defaults are the paper's and, where it is silent, OpenRLHF's.

    Attributes:
        learning_rate: peak learning rate of AdamW.
        beta: weight of the KL penalty against the reference policy; 0 needs no reference.
        clip: eps, how far the probability ratio may leave 1.
        aggregation: how token losses add up: mean over each ``"sequence"``, or over every ``"token"``.
        baseline: ``"none"``, or the mean reward of the row's ``"group"``.
        kl_in: whether the penalty is part of the ``"reward"`` (k1) or of the ``"loss"`` (k2).
        old_logprobs: pi_old as the ``"sampler"`` recorded it, or computed again by the ``"trainer"``.
        sampler_correction: ``"truncated"`` importance weights for the gap between the two, or ``"none"``.
        sampler_cap: largest such weight.
        min_reward_std: an update whose rewards, after the baseline, spread less than this is skipped.
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
    baseline: Literal["none", "group"] = "none"
    kl_in: Literal["reward", "loss"] = "reward"
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

    def build(self, policy: Policy, accelerator: Accelerator | None = None) -> ReinforcePP:
        """A new learner for ``policy``."""
        return ReinforcePP(policy, self, accelerator)


@dataclass(frozen=True, slots=True)
class _Targets:
    """What the loss is computed against, (N, T) float32 on the CPU, rows in the order of the samples."""

    old_logprobs: Tensor
    reference_logprobs: Tensor | None
    advantages: Tensor
    sampler_weights: Tensor | None


@dataclass(frozen=True, slots=True)
class _Step:
    """One optimiser step: its micro-batches here, and its rows and tokens over all processes."""

    batches: list[Batch]
    rows: int
    tokens: int


class ReinforcePP:
    """REINFORCE++ on one policy; implements ``Learner``.

    Args:
        policy: what is trained; its trainable parameters are float32.
        config: the settings.
        accelerator: gives mixed precision and the other processes, each of which updates with its own share of the
            rows. None: one process, the precision of the weights. The policy must not be wrapped or sharded.

    Raises:
        UsageError: nothing to train, weights or mixed precision in which small updates get lost, or temperature 0.
    """

    def __init__(self, policy: Policy, config: ReinforcePPConfig, accelerator: Accelerator | None = None) -> None:
        self.policy = policy
        self.config = config
        self.updates = 0
        self._processes = Processes(accelerator)
        self._parameters = policy.parameters()
        _check(policy, self._parameters, accelerator)
        self._processes.share_weights(self._parameters)
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )

    def update(self, samples: Sequence[Sample]) -> Metrics:
        """One update from the rows of one batch of games; adds one to ``policy.version`` unless it is skipped.

        Returns:
            Over the rows of all processes: ``rows``, ``tokens``, ``skipped`` (1 or 0), ``reward_mean``,
            ``reward_std``, ``staleness`` (updates between sampling and now, mean). Where not skipped also ``loss``,
            ``entropy`` (nats a token), ``kl`` (k1) and ``kl_k3`` of pi_old from the reference (beta above 0),
            ``ratio_mean``, ``ratio_max``, ``clip_fraction``, ``grad_norm`` (before clipping), ``learning_rate`` and,
            where the trainer recomputed pi_old: ``sampler_gap`` and ``sampler_gap_max`` (mean and largest absolute
            difference of a log-probability to the sampler's, nats), ``mismatch_kl`` (k3, of the sampler from the
            trainer, a token) and, with the correction, ``sampler_weight`` (mean).
        """
        everyone = self._processes.gather([(s.group, s.reward, len(s.token_ids), s.version) for s in samples])
        if not everyone:
            return {"rows": 0.0, "tokens": 0.0, "skipped": 1.0}
        groups, rewards, lengths, versions = zip(*everyone, strict=True)
        means = group_means(groups, rewards) if self.config.baseline == "group" else {}
        metrics = {
            "rows": float(len(everyone)),
            "tokens": float(sum(lengths)),
            "reward_mean": float(np.mean(rewards)),
            "reward_std": float(np.std(rewards)),
            "staleness": self.policy.version - float(np.mean(versions)),
        }
        spread = np.std([reward - means.get(group, 0.0) for group, reward in zip(groups, rewards, strict=True)])
        if spread < self.config.min_reward_std:
            return metrics | {"skipped": 1.0}
        steps = self._steps(samples)
        targets, kl = self._targets(samples, steps, [s.reward - means.get(s.group, 0.0) for s in samples])
        learned = self._optimise(steps, targets)
        self.updates += 1
        self.policy.version += 1
        return metrics | {"skipped": 0.0} | kl | learned

    def state_dict(self) -> dict[str, Tensor]:
        """AdamW's moments and the number of updates, which places the schedule."""
        return moments_of(self._optimizer, self._parameters) | {"updates": torch.tensor(self.updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what ``state_dict`` gave.

        Raises:
            CheckpointError: it is of another set of parameters.
        """
        load_moments(self._optimizer, self._parameters, state)
        self.updates = int(state["updates"])

    def _steps(self, samples: Sequence[Sample]) -> list[_Step]:
        """The rows of this process, dealt out to the optimiser steps of one epoch and cut into micro-batches."""
        dealt = [range(m, len(samples), self.config.minibatches) for m in range(self.config.minibatches)]
        counts = self._processes.gather([[(len(p), sum(len(samples[i].token_ids) for i in p)) for p in dealt]])
        steps = []
        for part, sizes in zip(dealt, zip(*counts, strict=True), strict=True):
            lengths = [(len(samples[i].prompt_ids), len(samples[i].token_ids)) for i in part]
            batches = [
                collate(samples, [part[i] for i in group], device=self.policy.device)
                for group in microbatches(lengths, self.config.tokens_per_microbatch)
            ]
            rows, tokens = (sum(column) for column in zip(*sizes, strict=True))
            steps.append(_Step(batches, rows, tokens))
        return [step for step in steps if step.rows]

    def _targets(
        self, samples: Sequence[Sample], steps: Sequence[_Step], rewards: Sequence[float]
    ) -> tuple[_Targets, Metrics]:
        """Old and reference log-probabilities and advantages; and what is to report of the KL and the sampler."""
        config = self.config
        sampled, mask = pad([sample.logprobs for sample in samples])
        old = sampled if config.old_logprobs == "sampler" else self._logprobs(steps, mask)
        reference = self._logprobs(steps, mask, reference=True) if config.beta > 0 else None
        per_token = token_rewards(torch.tensor(rewards), mask)
        sums = {}
        if reference is not None:
            k1 = kl_estimate(old, reference, "k1")
            if config.kl_in == "reward":
                per_token = per_token - config.beta * k1
            sums = {"kl": k1[mask].sum().item(), "kl_k3": kl_estimate(old, reference, "k3")[mask].sum().item()}
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
        returns = returns_to_go(per_token, mask)
        moments = Moments.merge(self._processes.gather([Moments.of(returns, mask)]))
        gathered = self._processes.gather([sums])
        known = {name: sum(part[name] for part in gathered) / moments.size for name in sums}
        everywhere = self._processes.gather(largest)
        if everywhere:
            known["sampler_gap_max"] = max(everywhere)
        return _Targets(old, reference, normalise(returns, mask, moments), weights), known

    @torch.no_grad()
    def _logprobs(self, steps: Sequence[_Step], mask: Tensor, *, reference: bool = False) -> Tensor:
        """Log-probabilities of the sampled tokens now, or under the reference: (N, T) float32, 0 outside ``mask``."""
        found = torch.zeros(mask.shape)
        for batch in (batch for step in steps for batch in step.batches):
            with self._processes.autocast():
                logits = completion_logits(self.policy, batch, reference=reference)
            found[batch.rows, : batch.targets.shape[1]] = token_logprobs(logits, batch.targets).cpu()
        return found * mask

    def _optimise(self, steps: Sequence[_Step], targets: _Targets) -> Metrics:
        """All epochs over ``steps``; what happened, averaged over tokens and optimiser steps of all processes."""
        config = self.config
        factor = schedule_factor(
            self.updates, config.schedule, warmup_steps=config.warmup_steps, total_steps=config.total_steps
        )
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        tallies: list[_Tally] = []
        norms: list[float] = []
        for step in list(steps) * config.epochs:
            self._optimizer.zero_grad()
            tallies += [self._backward(batch, step, targets) for batch in step.batches]
            self._processes.sum_gradients(self._parameters)
            norm = nn.utils.clip_grad_norm_(self._parameters, config.max_grad_norm, error_if_nonfinite=True)
            norms.append(float(norm))
            self._optimizer.step()
        everyone = self._processes.gather(tallies)
        tokens = sum(step.tokens for step in steps) * config.epochs
        return {
            "loss": sum(tally.loss for tally in everyone) / len(norms),
            "entropy": sum(tally.entropy for tally in everyone) / tokens,
            "ratio_mean": sum(tally.ratio for tally in everyone) / tokens,
            "ratio_max": max(tally.ratio_max for tally in everyone),
            "clip_fraction": sum(tally.clipped for tally in everyone) / tokens,
            "grad_norm": float(np.mean(norms)),
            "learning_rate": config.learning_rate * factor,
        }

    def _backward(self, batch: Batch, step: _Step, targets: _Targets) -> _Tally:
        """Adds the gradient of one micro-batch's share of the step's loss."""
        config, device, width = self.config, self.policy.device, batch.targets.shape[1]
        old = targets.old_logprobs[batch.rows, :width].to(device)
        advantages = targets.advantages[batch.rows, :width].to(device)
        with self._processes.autocast():
            logits = completion_logits(self.policy, batch)
        logprobs = token_logprobs(logits, batch.targets)
        ratio = probability_ratio(logprobs, old)
        losses = clipped_surrogate(ratio, advantages, config.clip)
        if targets.reference_logprobs is not None and config.kl_in == "loss":
            reference = targets.reference_logprobs[batch.rows, :width].to(device)
            losses = losses + config.beta * kl_estimate(logprobs, reference, "k2")
        if targets.sampler_weights is not None:
            losses = losses * targets.sampler_weights[batch.rows, :width].to(device)
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
