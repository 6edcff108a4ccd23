"""A value function beside the policy: it predicts an agent's return from what was said so far.

A small network reads the last hidden state that the FROZEN reference has before each token and, as a centralized
critic, the numbers of ``Sample.state``. Its gradient ends there: no value loss pulls on the policy, one pass for the
features serves all epochs of the fit, and the features do not drift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from waltz_env.algorithms.advantages import Moments
from waltz_env.algorithms.batches import Step, batches_of
from waltz_env.algorithms.optimizer import check_gradient, check_weights, load_moments, moments_of
from waltz_env.algorithms.processes import Processes
from waltz_env.algorithms.protocols import FeaturePolicy, Metrics, Policy, Sample
from waltz_env.checks import check_integer, check_number, check_settings
from waltz_env.errors import CheckpointError, UsageError

_WEIGHTS, _OPTIMIZER = "critic.", "critic_optimizer."


@dataclass(frozen=True, slots=True)
class CriticConfig:
    """Settings of the critic.

    Attributes:
        learning_rate: learning rate of the critic's AdamW.
        epochs: steps on the whole batch per update; they cost little, as the features are computed once.
        hidden: width of the hidden layer.
        seed: seed of the initial weights.

    Raises:
        UsageError: a setting is out of range.
    """

    learning_rate: float = 1e-3
    epochs: int = 20
    hidden: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)
        check_number("The critic's learning_rate", self.learning_rate, low=0)
        check_integer("The critic's epochs", self.epochs, at_least=1)
        check_integer("The critic's hidden", self.hidden, at_least=1)
        check_integer("The critic's seed", self.seed, at_least=0)


class Critic:
    """V(s_i), the expected return from the state before token i on. 0 everywhere before its first fit.

    Args:
        policy: policy whose reference computes the features.
        config: the settings.
        processes: processes that fit the critic together.
        state_size: S, number of values of ``Sample.state`` that V reads; 0: the agent's own observation alone.

    Raises:
        UsageError: the policy has no features.
    """

    def __init__(self, policy: Policy, config: CriticConfig, *, processes: Processes, state_size: int = 0) -> None:
        if not isinstance(policy, FeaturePolicy):
            raise UsageError(
                f"A critic needs a policy with `features` and `feature_size`; {type(policy).__name__} has none. Add "
                "them (see `FeaturePolicy`), or use an algorithm without a critic."
            )
        self._policy = policy
        self._config = config
        self._processes = processes
        self._state_size = state_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            output = nn.Linear(config.hidden, 1)
            self._network = nn.Sequential(nn.Linear(policy.feature_size + state_size, config.hidden), nn.Tanh(), output)
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)
        self._network.to(policy.device)
        self._parameters = list(self._network.parameters())
        processes.share_weights(self._parameters)
        self._optimizer = torch.optim.AdamW(self._parameters, lr=config.learning_rate, weight_decay=0.0, fused=True)

    @torch.no_grad()
    def inputs(self, samples: Sequence[Sample], *, steps: Sequence[Step], mask: Tensor) -> Tensor:
        """What V reads before each sampled token, (M, D + S) float32, M = ``mask.sum()``, row by row.

        Features are brought to zero mean and unit variance within each position, because hidden states of language
        models hold a few values far out of scale.

        Args:
            samples: the N samples.
            steps: the same samples as micro-batches.
            mask: true on sampled tokens, (N, T) bool.

        Raises:
            UsageError: a sample's ``state`` does not have the size that the critic was made for.
        """
        policy = self._policy
        # Only real tokens are kept: M lines instead of N x T. ``lines`` gives each token of the (N, T) grid its line,
        # counted row by row. It is valid where the mask is true, and only there it is used.
        lines = mask.flatten().cumsum(0).view(mask.shape) - 1
        features = torch.zeros(int(mask.sum()), policy.feature_size, device=policy.device)
        for batch in batches_of(steps):
            width = batch.targets.shape[1]
            with self._processes.autocast():
                hidden = policy.features(
                    batch.input_ids, batch.attention_mask, batch.position_ids, keep=batch.reads.shape[1]
                )
            if not len(batch.rows):
                continue
            # V of a token reads the position before it. Lines and positions are in the same order, row by row.
            chosen = lines[batch.rows, :width][batch.mask.cpu()].to(policy.device)
            features[chosen] = hidden[batch.reads].float()
        states = _states(samples, self._state_size).repeat_interleave(mask.sum(1), dim=0).to(policy.device)
        return torch.cat([F.layer_norm(features, features.shape[1:]), states], dim=1)

    @torch.no_grad()
    def values(self, inputs: Tensor, *, mask: Tensor) -> Tensor:
        """V before each token, (N, T) on the CPU; 0 outside the mask."""
        values = torch.zeros(mask.shape)
        values[mask] = self._network(inputs).squeeze(1).cpu()
        return values

    def fit(self, inputs: Tensor, *, targets: Tensor) -> Metrics:
        """Move V towards ``targets`` (M,), the returns, by least squares.

        Returns:
            Over all processes: ``value_loss`` (mean squared error) and ``explained_variance`` (1 - this error divided
            by the variance of the returns), both of V before the fit.
        """
        targets = targets.to(inputs.device)
        total = sum(self._processes.gather([len(targets)]))
        errors: list[Tensor] = []
        for _ in range(self._config.epochs):
            self._optimizer.zero_grad()
            error = self._network(inputs).squeeze(1) - targets
            (error.square().sum() / total).backward()
            self._processes.sum_gradients(self._parameters)
            gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            check_gradient(nn.utils.get_total_norm(gradients), of="The critic's")
            self._optimizer.step()
            errors.append(error.detach())
        check_weights(self._parameters, of="The critic's")
        parts = self._processes.gather([(_moments(errors[0]), _moments(targets))])
        error_moments, target_moments = (Moments.merge(part) for part in zip(*parts, strict=True))
        squares = error_moments.squares / error_moments.size
        return {"value_loss": squares, "explained_variance": 1 - squares / target_moments.deviation**2}

    def state_dict(self) -> dict[str, Tensor]:
        """The critic's weights and the moments of its AdamW."""
        weights = {_WEIGHTS + name: tensor.detach() for name, tensor in self._network.state_dict().items()}
        moments = moments_of(self._optimizer, self._parameters)
        return weights | {_OPTIMIZER + name: tensor for name, tensor in moments.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state returned by ``state_dict``; other keys of ``state`` are ignored.

        Raises:
            CheckpointError: the state belongs to a critic of another size.
        """
        weights = {name.removeprefix(_WEIGHTS): t for name, t in state.items() if name.startswith(_WEIGHTS)}
        try:
            self._network.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(f"The checkpoint belongs to another critic; use its settings. {error}") from None
        moments = {name.removeprefix(_OPTIMIZER): t for name, t in state.items() if name.startswith(_OPTIMIZER)}
        load_moments(self._optimizer, self._parameters, state=moments)


def _moments(values: Tensor) -> Moments:
    return Moments.of(values, torch.ones_like(values, dtype=torch.bool))


def _states(samples: Sequence[Sample], size: int) -> Tensor:
    """(N, S) float32."""
    if size == 0:
        return torch.zeros(len(samples), 0)
    for sample in samples:
        if len(sample.state) != size:
            raise UsageError(
                f"This critic reads {size} numbers of state; a sample of {sample.agent!r} has {len(sample.state)}. "
                "Set `state_size` to what your samples have; the samples of a game have `len(STATE)`."
            )
    return torch.tensor([sample.state for sample in samples]).reshape(len(samples), size)
