"""Supervised fine-tuning: the warm start that teaches a policy the format before reinforcement learning begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from waltz_env.algorithms.batches import microbatches, token_logprobs
from waltz_env.algorithms.optimizer import check_betas, check_gradient, check_weights, schedule_factor
from waltz_env.algorithms.processes import Processes
from waltz_env.algorithms.protocols import Policy, SeparablePolicy
from waltz_env.algorithms.token_scores import scores_in_parts
from waltz_env.checks import check_integer, check_number, check_settings
from waltz_env.errors import UsageError
from waltz_env.sharding import check_whole

Example = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of the target that should follow it; the target ends with its end-of-turn token."""

_BATCHES_PER_BUCKET = 16


@dataclass(frozen=True, slots=True)
class SupervisedConfig:
    """Settings of ``fit``.

    Attributes:
        steps: number of AdamW steps. Steps and not seconds, so that a seed reproduces the result.
        batch_size: examples per step.
        learning_rate: peak learning rate; it falls linearly, to 0 after the last step.
        warmup_steps: steps over which the learning rate first rises linearly.
        prompt_weight: weight of the loss on prompt tokens; target tokens have weight 1.
        betas: AdamW's moment decays.
        weight_decay: AdamW's decoupled weight decay.
        max_grad_norm: global norm that gradients are clipped to.
        tokens_per_microbatch: largest number of padded tokens per forward pass (a longer example goes alone); limits
            memory, does not change the result.
        logits_at_once: largest number of logits, positions times vocabulary, that a policy's forward and backward pass
            hold at once; limits memory, changes the result by rounding alone. A bare model holds all of them.
        bf16: whether the forward pass runs under bfloat16 autocast.
        seed: seed of the order of the examples.

    Raises:
        UsageError: a setting is out of range.
    """

    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 5e-3
    warmup_steps: int = 0
    prompt_weight: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    tokens_per_microbatch: int = 16_384
    logits_at_once: int = 2**25
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("steps", "warmup_steps", "seed"):
            check_integer(name, getattr(self, name), at_least=0)
        for name in ("batch_size", "tokens_per_microbatch", "logits_at_once"):
            check_integer(name, getattr(self, name), at_least=1)
        for name in ("learning_rate", "prompt_weight", "weight_decay"):
            check_number(name, getattr(self, name), low=0)
        check_betas(self.betas)
        if not self.max_grad_norm > 0:  # infinity is fine: no clipping
            raise UsageError(f"max_grad_norm must be above 0; got {self.max_grad_norm!r}.")


def fit(
    policy: Policy | nn.Module,
    examples: Sequence[Example],
    *,
    config: SupervisedConfig | None = None,
    on_step: Callable[[int, float], object] | None = None,
    accelerator: Accelerator | None = None,
) -> list[float]:
    """Train on (prompt, target) pairs by weighted next-token cross-entropy.

    Args:
        policy: a policy, or a bare causal language model with the interface of Hugging Face
            (``model(input_ids=, attention_mask=, position_ids=).logits``); its trainable parameters are fitted.
        examples: pairs of token ids; they are used in a seeded order, as often as the steps need.
        config: the settings; ``SupervisedConfig()`` by default.
        on_step: called after each step with the number of steps done and the loss; for a progress bar.
        accelerator: accelerator of this process, if several fit together. All have the same weights and examples, and
            each computes its share of every batch.

    Returns:
        The loss of each step, in nats per weighted token, before that step changes the weights.

    Raises:
        UsageError: there are no examples, an example has nothing to learn from, or the weights are sharded.
    """
    config = config or SupervisedConfig()
    _check(examples)
    forward, parameters, device = _parts(policy)
    check_whole(parameters, task="Supervised fitting")
    processes = Processes(accelerator)
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    losses: list[float] = []
    for step, batch in zip(range(config.steps), _batches(examples, config), strict=False):
        factor = schedule_factor(step, "linear", warmup_steps=config.warmup_steps, total_steps=config.steps)
        optimizer.param_groups[0]["lr"] = config.learning_rate * factor
        optimizer.zero_grad()
        total = sum(len(target) + config.prompt_weight * (len(prompt) - 1) for prompt, target in batch)
        loss = 0.0
        share = batch[processes.index :: processes.count]
        lengths = [len(prompt) + len(target) for prompt, target in share]
        for rows in microbatches(lengths, config.tokens_per_microbatch):
            ids, weights = _collate([share[i] for i in rows], config.prompt_weight, device)
            first = 0 if config.prompt_weight else min(len(share[i][0]) for i in rows) - 1  # predicts what is learned
            part = _weighted_loss(policy, forward, ids, weights, keep=ids.shape[1] - first, config=config) / total
            part.backward()
            loss += part.item()
        processes.sum_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        check_gradient(norm, of=f"Step {step + 1}: the")
        optimizer.step()
        losses.append(sum(processes.gather([loss])))
        if on_step is not None:
            on_step(step + 1, losses[-1])
    check_weights(parameters)
    return losses


def _check(examples: Sequence[Example]) -> None:
    if not examples:
        raise UsageError("Supervised fitting needs at least one (prompt_ids, target_ids) example; got none.")
    for i, (prompt, target) in enumerate(examples):
        if not prompt or not target:
            raise UsageError(
                f"Example {i} has {len(prompt)} prompt and {len(target)} target ids; each needs at least one "
                "(start a prompt with the beginning-of-text token)."
            )


def _parts(policy: Policy | nn.Module) -> tuple[Callable[[Tensor, int], Tensor], list[nn.Parameter], torch.device]:
    """A function from ids (B, L) and K to the last K logits (B, K, V); what to train; its device."""
    if isinstance(policy, nn.Module):
        model = policy
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

        def forward(ids: Tensor, keep: int) -> Tensor:
            mask, positions = _layout(ids)
            logits: Tensor = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
            return logits[:, -keep:]

        return forward, parameters, parameters[0].device

    return lambda ids, keep: policy.logits(ids, *_layout(ids), keep), policy.parameters(), policy.device


def _layout(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Attention mask and position ids of right-padded rows.

    The mask is all ones: in a causal model no real token sees the padding after it, and attention without a mask has
    faster kernels.
    """
    return torch.ones_like(ids), torch.arange(ids.shape[1], device=ids.device).expand_as(ids)


def _batches(examples: Sequence[Example], config: SupervisedConfig) -> Iterator[list[Example]]:
    """Endless batches in a seeded order, each of examples with about the same length."""
    rng = np.random.default_rng(config.seed)
    lengths = np.array([len(prompt) + len(target) for prompt, target in examples])
    while True:
        # Shuffle all examples, sort by length only within buckets of several batches, then shuffle the batches: little
        # padding, and still a random order.
        order = rng.permutation(len(examples))
        bucket = config.batch_size * _BATCHES_PER_BUCKET
        chunks = [order[i : i + bucket] for i in range(0, len(order), bucket)]
        epoch = [
            indices[i : i + config.batch_size]
            for chunk in chunks
            for indices in [chunk[np.argsort(lengths[chunk], kind="stable")]]
            for i in range(0, len(indices), config.batch_size)
        ]
        for k in rng.permutation(len(epoch)):
            yield [examples[i] for i in epoch[k]]


def _collate(rows: list[Example], prompt_weight: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-padded ids (B, L) int64 and the weight (B, L) float32 of the loss on each."""
    length = max(len(prompt) + len(target) for prompt, target in rows)
    ids = np.zeros((len(rows), length), dtype=np.int64)
    weights = np.zeros((len(rows), length), dtype=np.float32)
    for i, (prompt, target) in enumerate(rows):
        p, t = len(prompt), len(prompt) + len(target)
        ids[i, :p], ids[i, p:t] = prompt, target
        weights[i, 1:p], weights[i, p:t] = prompt_weight, 1.0
    return torch.from_numpy(ids).to(device), torch.from_numpy(weights).to(device)


def _weighted_loss(
    policy: Policy | nn.Module,
    forward: Callable[[Tensor, int], Tensor],
    ids: Tensor,
    weights: Tensor,
    *,
    keep: int,
    config: SupervisedConfig,
) -> Tensor:
    """Sum over the last ``keep - 1`` tokens of weight times negative log-likelihood, float32."""
    targets, weights = ids[:, 1 - keep :], weights[:, 1 - keep :]
    learned = weights > 0
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=config.bf16):
        if isinstance(policy, SeparablePolicy) and len(ids) * keep * policy.vocabulary_size > config.logits_at_once:
            columns = scores_in_parts(
                policy,
                (ids, *_layout(ids)),
                reads=F.pad(learned, (0, 1)),  # the last position predicts nothing
                targets=targets[learned],
                scores=[token_logprobs],
                logits_at_once=config.logits_at_once,
                temperature=1.0,
            )
            if columns is not None:
                return -(columns[0] * weights[learned]).sum()
        logits = forward(ids, keep)
    nll = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten(), reduction="none")
    return (nll * weights.flatten()).sum()
