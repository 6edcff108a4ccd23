"""What a learner learns from, what it trains, and what a learner is. None of the three knows the game."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """One training row: one action of one agent in one turn, with its reward.

    Attributes:
        prompt_ids: ids that the agent was conditioned on, shape (P,).
        token_ids: ids that it sampled, shape (T,), T >= 1.
        logprobs: their log-probabilities under the policy that sampled them, in nats, shape (T,).
        reward: the scalar reward of the action.
        group: rows with equal ``group`` may share a baseline; never the same for two agents or two turns.
        version: number of updates of the weights that sampled it.
        agent: whose action it is. Statistics of a batch are of one agent, also where a policy plays both.
        turn: t of the action c_t or f_t.
        state: what the global state tells beyond ``prompt_ids``, as numbers, shape (S,); for centralised critics.
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
    """Trainable weights of one agent and the frozen reference that they started from.

    Attributes:
        temperature: of the distribution that is sampled and trained; log-probabilities are of ``logits / temperature``.
        version: number of updates made so far. The learner adds one with every update.
        device: where the weights are.
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
        """Raw logits of the last ``keep`` positions, shape (B, keep, V).

        Args:
            input_ids: (B, L) int64. attention_mask: (B, L) int64. position_ids: (B, L) int64.
            keep: number of positions, counted from the right, for which logits are computed.
            reference: of the frozen reference instead, without gradient.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The trainable weights by name."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what ``state_dict`` gave."""
        ...


@runtime_checkable
class FeaturePolicy(Policy, Protocol):
    """A policy with features of what was said so far, from which a critic can tell how it will end."""

    @property
    def feature_size(self) -> int:
        """D, the number of features of a position."""
        ...

    def features(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, keep: int) -> Tensor:
        """Of the last ``keep`` positions: the frozen reference's last hidden states, (B, keep, D), without gradient."""
        ...


@runtime_checkable
class Learner(Protocol):
    """Anything that improves one policy from samples."""

    def update(self, samples: Sequence[Sample]) -> Metrics:
        """One update. The samples are of the agents that play the policy; each process gives its own share of them."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything but the policy's weights that an exact continuation needs: optimiser, schedule."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what ``state_dict`` gave."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """An agent with a random state of its own, which an exact continuation needs."""

    def state_dict(self) -> dict[str, Tensor]:
        """The state of its random generators."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what ``state_dict`` gave."""
        ...
