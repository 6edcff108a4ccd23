"""What a learner learns from, what it trains, what a learner is, and the settings that build one.

Learners know samples and policies, not the game: of the game's state they see the numbers that ``STATE`` names.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from waltz_env.types import Completion, Observation

Metrics = dict[str, float]

STATE = ("harmful", "unsafe", "overrefuse", "flagged_unsafe", "flagged_overrefuse", "turn")
"""Names of the numbers in ``Sample.state``, for critics that may see more than any agent does.

``harmful``: whether the prompt is harmful. ``unsafe``, ``overrefuse``: labels of the latest response before the action.
``flagged_unsafe``, ``flagged_overrefuse``: flags of the latest critique before it. ``turn``: the turn. Labels and flags
are 0 where there is no response or critique yet."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One training row: one action of one agent in one turn, with its reward.

    Attributes:
        prompt_ids: token ids that the agent was conditioned on, shape (P,).
        token_ids: token ids that the agent sampled, shape (T,), T >= 1.
        logprobs: log-probabilities of the sampled tokens under the policy that sampled them, in nats, shape (T,).
        reward: scalar reward of the action.
        group: key of the group whose samples share a baseline; never the same for two agents or two turns.
        version: number of updates that the sampling weights had seen.
        agent: agent that acted. Statistics of a batch are per agent, also where one policy plays both agents.
        turn: turn t of the response c_t or the critique f_t.
        state: numbers about the global state that ``prompt_ids`` does not tell, shape (S,); for centralized critics.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reward: float
    group: Hashable
    version: int
    agent: str = ""
    turn: int = 0
    state: tuple[float, ...] = ()


class Policy(Protocol):
    """Trainable weights of one agent, and the frozen reference that they started from.

    Attributes:
        temperature: temperature at which the policy samples and learns; log-probabilities are those of
            ``logits / temperature``.
        version: number of updates made so far. The learner adds one with every update.
        device: device that holds the weights.
    """

    temperature: float
    version: int

    @property
    def device(self) -> torch.device: ...

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, in a fixed order."""
        ...

    def logits(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, keep: int, *, reference: bool = False
    ) -> Tensor:
        """Raw logits at the last ``keep`` positions, shape (B, keep, V).

        Args:
            input_ids: token ids, (B, L) int64.
            attention_mask: 1 on real tokens and 0 on padding, (B, L) int64.
            position_ids: position of each token in its own row, (B, L) int64.
            keep: number of positions, counted from the right, whose logits are computed.
            reference: whether to ask the frozen reference instead, without gradient.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The trainable weights by name."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore weights returned by ``state_dict``."""
        ...


@runtime_checkable
class ResettablePolicy(Policy, Protocol):
    """A policy whose reference can be replaced, so that a stage can have a reference of its own."""

    def reset_reference(self, state: Mapping[str, Tensor] | None) -> None:
        """Take other weights as the reference.

        Args:
            state: weights by name, as ``state_dict`` returns them; they are copied. None takes the reference that the
                policy was made with.
        """
        ...


@runtime_checkable
class FeaturePolicy(Policy, Protocol):
    """A policy that also returns features of the text so far, from which a critic can predict the return."""

    @property
    def feature_size(self) -> int:
        """D, the number of features per position."""
        ...

    def features(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, keep: int) -> Tensor:
        """Last hidden states of the frozen reference at the last ``keep`` positions, (B, keep, D), without gradient."""
        ...


@runtime_checkable
class SeparablePolicy(Policy, Protocol):
    """A policy whose output head can be applied by itself, so that not all logits need to exist at once."""

    @property
    def vocabulary_size(self) -> int:
        """V, the number of logits per position."""
        ...

    def hidden_states(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, keep: int, *, reference: bool = False
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
        """Last hidden states at the last ``keep`` positions, (B, keep, D), and the output head, (b, k, D) to (b, k, V).

        The head may be called again in the backward pass, after other forward passes. None if this policy's head cannot
        be applied by itself.
        """
        ...


@runtime_checkable
class RemotePolicy(Protocol):
    """Trainable weights of one agent on a service that makes forward passes, gradients and optimizer steps itself.

    Rows are pairs of token ids: those of the prompt, (P,), and those that were sampled, (T,). Values per row are those
    of its T sampled tokens. The temperature is that of ``Policy``, and so is the version.
    """

    temperature: float
    version: int

    def logprobs(
        self, rows: Sequence[tuple[Sequence[int], Sequence[int]]], *, reference: bool = False
    ) -> list[list[float]]:
        """Log-probabilities in nats, per row, under the current weights, or under those that training began from."""
        ...

    def step(
        self,
        rows: Sequence[tuple[Sequence[int], Sequence[int]]],
        *,
        old_logprobs: Sequence[Sequence[float]],
        advantages: Sequence[Sequence[float]],
        clip: float,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        max_grad_norm: float,
    ) -> tuple[list[list[float]], float | None]:
        """Make one AdamW step on the sum of the clipped objective's negative over all tokens of all rows.

        Returns:
            Log-probabilities before the step, per row, and the norm of the gradient before clipping, if it is known.
        """
        ...

    def restart_optimizer(self) -> None:
        """Forget the moments of the optimizer, and keep the weights."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What ``load_state_dict`` finds weights and optimizer again by."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` named."""
        ...


@runtime_checkable
class Learner(Protocol):
    """Anything that improves one policy from samples."""

    def update(self, samples: Sequence[Sample]) -> Metrics:
        """Make one update from samples of the agents that play the policy; each process passes its own share."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything except the policy's weights that an exact continuation needs, such as the optimizer's state."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state returned by ``state_dict``."""
        ...


@runtime_checkable
class LearnerConfig(Protocol):
    """Settings of an algorithm, which build its learners. Any object with this method is an algorithm.

    Settings may have an attribute or property ``needs_groups: bool``. True says that a sample that is alone in its
    group teaches nothing, so that each prompt must be played several times; see ``needs_groups``.
    """

    def build(self, policy: Policy, accelerator: Accelerator) -> Learner:
        """Return a new learner for ``policy``."""
        ...


def needs_groups(config: LearnerConfig) -> bool:
    """Whether the algorithm compares samples of one group and learns nothing from a sample alone in its group."""
    return bool(getattr(config, "needs_groups", False))


@runtime_checkable
class Trainable(Protocol):
    """An agent that acts with weights that a learner can train.

    Attributes:
        policy: the weights that the agent acts with. Agents with the same policy learn together.
    """

    policy: Policy | RemotePolicy

    def act(self, observations: Sequence[Observation]) -> Sequence[Completion]:
        """One completion per observation, with token ids and log-probabilities; see ``Agent``."""
        ...
