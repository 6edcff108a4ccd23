"""The clipped objective on one policy: what every policy-gradient algorithm here shares once its advantages are known.

1. As PPO (arXiv:1707.06347, eq. 7), in the form of arXiv:2510.08240, eq. 4: -min(s A, clip(s, 1 - eps, 1 + eps) A) for
   each token, where s is the ratio of its probability to that under pi_old.
2. As OpenRLHF, where the papers are silent: KL estimates in float32 clamped to +-10, the log-ratio clamped to +-20,
   AdamW with betas 0.9 and 0.95, gradient norm 1.
3. With one epoch of one minibatch, the default, the ratio is 1 and the clip does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from waltz_env.algorithms.batches import MicroBatch, Step, token_entropy, token_logprobs
from waltz_env.algorithms.losses import (
    KL,
    Aggregation,
    clipped_surrogate,
    kl_estimate,
    probability_ratio,
    token_weights,
)
from waltz_env.algorithms.optimizer import (
    Schedule,
    check_betas,
    check_gradient,
    check_weights,
    load_moments,
    moments_of,
    schedule_factor,
)
from waltz_env.algorithms.processes import Processes
from waltz_env.algorithms.protocols import Metrics, Policy
from waltz_env.algorithms.token_scores import token_scores
from waltz_env.algorithms.update_batch import UpdateBatch
from waltz_env.checks import check_choice, check_integer, check_number, check_settings
from waltz_env.errors import UsageError
from waltz_env.sharding import check_whole

OldLogprobs = Literal["sampler", "trainer"]
SamplerCorrection = Literal["none", "truncated"]


@dataclass(frozen=True, slots=True)
class SurrogateConfig:
    """Settings that all policy-gradient algorithms share: the field ``surrogate`` of each algorithm's own settings.

    Attributes:
        learning_rate: peak learning rate of AdamW.
        beta: weight of the KL penalty against the reference policy; 0 needs no reference.
        clip: eps, how far the probability ratio may leave 1.
        old_logprobs: take pi_old as the ``"sampler"`` recorded it, or let the ``"trainer"`` compute it again.
        sampler_correction: ``"truncated"`` importance weights for the gap between the two, or ``"none"``.
        sampler_cap: largest such weight.
        min_reward_std: an agent whose rewards, after the baseline, spread less than this is left out of the update.
        epochs: number of passes over the samples of one update.
        minibatches: number of optimizer steps per pass; samples are dealt out to them in turn.
        tokens_per_microbatch: padded tokens per forward pass; limits memory, does not change the result.
        logits_at_once: largest number of logits (positions times vocabulary) in memory at once; see ``token_scores``.
            Limits memory, changes the result by rounding alone.
        betas: AdamW's moment decays.
        weight_decay: AdamW's decoupled weight decay.
        max_grad_norm: global norm that gradients are clipped to.
        schedule: learning-rate schedule over updates.
        warmup_steps: number of updates over which the learning rate rises linearly.
        total_steps: update at which the ``"linear"`` schedule reaches 0.

    Raises:
        UsageError: a setting is out of range, or two settings do not go together.
    """

    learning_rate: float = 5e-7
    beta: float = 0.01
    clip: float = 0.2
    old_logprobs: OldLogprobs = "sampler"
    sampler_correction: SamplerCorrection = "none"
    sampler_cap: float = 2.0
    min_reward_std: float = 1e-6
    epochs: int = 1
    minibatches: int = 1
    tokens_per_microbatch: int = 16_384
    logits_at_once: int = 2**25
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    total_steps: int = 0

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("learning_rate", "beta", "min_reward_std", "weight_decay"):
            check_number(name, getattr(self, name), low=0)
        check_number("clip", self.clip, above=0)
        for name in ("sampler_cap", "max_grad_norm"):
            if not getattr(self, name) > 0:  # infinity is fine: no cap, no clipping
                raise UsageError(f"{name} must be above 0; got {getattr(self, name)!r}.")
        for name in ("epochs", "minibatches", "tokens_per_microbatch", "logits_at_once"):
            check_integer(name, getattr(self, name), at_least=1)
        for name in ("warmup_steps", "total_steps"):
            check_integer(name, getattr(self, name), at_least=0)
        check_betas(self.betas)
        check_choice("old_logprobs", self.old_logprobs, get_args(OldLogprobs))
        check_choice("sampler_correction", self.sampler_correction, get_args(SamplerCorrection))
        check_choice("schedule", self.schedule, get_args(Schedule))
        if self.schedule == "linear" and self.total_steps < 1:
            raise UsageError("The linear schedule needs total_steps, the number of updates after which it is at 0.")
        if self.sampler_correction == "truncated" and self.old_logprobs == "sampler":
            raise UsageError("sampler_correction='truncated' needs old_logprobs='trainer'; got old_logprobs='sampler'.")


class Surrogate:
    """One policy, its optimizer and the clipped objective.

    Args:
        policy: policy to train; its trainable parameters are float32. It must not be wrapped, nor sharded by anything
            but ``LanguageModelPolicy.shard``.
        config: the settings.
        aggregation: how the losses of tokens add up, see ``losses.token_weights``.
        processes: processes that train together, each on its own share of the samples.

    Raises:
        UsageError: nothing to train, sharded weights, weights in which small updates are lost, or temperature 0.
    """

    def __init__(
        self, policy: Policy, config: SurrogateConfig, *, aggregation: Aggregation, processes: Processes
    ) -> None:
        self.policy = policy
        self.config = config
        self.updates = 0
        self._aggregation = aggregation
        self._processes = processes
        self._parameters = policy.parameters()
        _check(policy, self._parameters)
        processes.share_weights(self._parameters)
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )

    def improve(self, batch: UpdateBatch, advantages: Tensor, *, steps: Sequence[Step], kl: KL | None) -> Metrics:
        """Make all optimizer steps of one update, and add one to ``policy.version``.

        Args:
            batch: the samples' log-probabilities.
            advantages: advantage of every token, (N, T) float32.
            steps: optimizer steps of one epoch.
            kl: estimate whose beta-fold is added to the loss; None: the penalty is in the advantages, or nowhere.

        Returns:
            Over the tokens and optimizer steps of all processes: ``loss``, ``entropy`` (nats per token),
            ``ratio_mean``, ``ratio_max``, ``clip_fraction``, ``grad_norm`` (before clipping), ``learning_rate``.
        """
        config = self.config
        factor = schedule_factor(
            self.updates, config.schedule, warmup_steps=config.warmup_steps, total_steps=config.total_steps
        )
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        tallies: list[_Tally] = []
        norms: list[float] = []
        for step in [*steps] * config.epochs:
            self._optimizer.zero_grad()
            tallies += [self._backward(micro, step, batch, advantages, kl) for micro in step.batches]
            self._processes.sum_gradients(self._parameters)
            norm = nn.utils.clip_grad_norm_(self._parameters, config.max_grad_norm)
            check_gradient(norm)
            norms.append(float(norm))
            self._optimizer.step()
        check_weights(self._parameters)
        self.updates += 1
        self.policy.version += 1
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

    def state_dict(self) -> dict[str, Tensor]:
        """AdamW's moments and the number of updates, which is the position in the schedule."""
        return moments_of(self._optimizer, self._parameters) | {"updates": torch.tensor(self.updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state returned by ``state_dict``; other keys of ``state`` are ignored.

        Raises:
            CheckpointError: the state belongs to other parameters.
        """
        load_moments(self._optimizer, self._parameters, state=state)
        self.updates = int(state["updates"])

    def _backward(self, micro: MicroBatch, step: Step, batch: UpdateBatch, advantages: Tensor, kl: KL | None) -> _Tally:
        """Add the gradient of one micro-batch's share of the step's loss."""
        width = micro.targets.shape[1]

        # Tensors of the update are (N, T) for all rows of this process, on the CPU. A micro-batch holds some of these
        # rows in an order of its own, padded only to its longest completion.
        def here(values: Tensor) -> Tensor:
            return values[micro.rows, :width].to(self.policy.device)

        with self._processes.autocast():
            logprobs, entropy = token_scores(
                self.policy, micro, scores=(token_logprobs, _entropy), logits_at_once=self.config.logits_at_once
            )
        if not len(micro.rows):
            logprobs.sum().backward()  # all processes must make the same passes; this one adds zeros
            return _Tally(loss=0.0, entropy=0.0, ratio=0.0, ratio_max=0.0, clipped=0.0)
        ratio = probability_ratio(logprobs, here(batch.old_logprobs))
        losses = clipped_surrogate(ratio, here(advantages), clip=self.config.clip)
        if kl is not None and batch.reference_logprobs is not None:
            losses = losses + self.config.beta * kl_estimate(logprobs, here(batch.reference_logprobs), estimate=kl)
        if batch.sampler_weights is not None:
            losses = losses * here(batch.sampler_weights)
        # The weights divide by the rows or tokens of the whole step, over all micro-batches and processes, and are 0 on
        # padding. So the shares add up to the loss of the step, and cutting it otherwise changes nothing.
        weights = token_weights(micro.mask, self._aggregation, rows=step.rows, tokens=step.tokens)
        loss = (losses * weights).sum()
        loss.backward()
        ratio = ratio.detach()[micro.mask]
        return _Tally(
            loss=loss.item(),
            entropy=entropy[micro.mask].sum().item(),
            ratio=ratio.sum().item(),
            ratio_max=ratio.max().item(),
            clipped=float(((ratio - 1).abs() > self.config.clip).sum()),
        )


def _entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return token_entropy(logits)


class _Tally(NamedTuple):
    """Metrics of one micro-batch: sums over its tokens, its share of the loss, and its largest ratio."""

    loss: float
    entropy: float
    ratio: float
    ratio_max: float
    clipped: float


def _check(policy: Policy, parameters: Sequence[nn.Parameter]) -> None:
    if not parameters:
        raise UsageError("The policy has no trainable parameters; add an adapter or unfreeze its weights.")
    check_whole(parameters, task="Learning", or_shards=True)
    narrow = sorted({str(p.dtype) for p in parameters if p.dtype != torch.float32})
    if narrow:
        raise UsageError(
            f"Trainable parameters must be float32, or small updates are rounded away; got {', '.join(narrow)}. Keep "
            "them in float32 and ask accelerate for mixed_precision='bf16'."
        )
    if policy.temperature <= 0:
        raise UsageError(f"A policy that learns must sample at a temperature above 0; got {policy.temperature}.")
