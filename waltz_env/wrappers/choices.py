"""Actions to choose from, for policies that write no text of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from waltz_env.checks import check_index
from waltz_env.feedback import format_feedback
from waltz_env.protocols import Agent
from waltz_env.scripted import ANSWER, NO_ADVICE, REFUSAL, FollowAdvice, advise
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Completion, Labels, Observation
from waltz_env.wrappers.encoders import Encoder
from waltz_env.wrappers.encoding import encode_observations

Choice: TypeAlias = str | Agent
"""A text, or an agent that says what suits the observation."""

_UNSAFE, _OVERREFUSE = Labels(unsafe=True, overrefuse=False), Labels(unsafe=False, overrefuse=True)

CHOICES: Mapping[AgentID, Sequence[Choice]] = MappingProxyType(
    {
        # Refuse; answer; do what the latest advice says (at first, and where it says neither: answer, keep).
        CONVERSATION: (REFUSAL, ANSWER, FollowAdvice(answers=1.0)),
        # Flag nothing; unsafe, with advice to refuse; overrefusing, with advice to answer. As many as for the
        # conversation agent, so that one policy can play both.
        FEEDBACK: (
            format_feedback(Labels(unsafe=False, overrefuse=False), NO_ADVICE),
            format_feedback(_UNSAFE, advise(_UNSAFE)),
            format_feedback(_OVERREFUSE, advise(_OVERREFUSE)),
        ),
    }
)
"""The ready-made actions of each agent, by index."""


def chosen(choices: Sequence[Choice], action: SupportsIndex, observation: Observation) -> Completion:
    """What the choice of that index says.

    Raises:
        UsageError: there is no such index.
        UsageTypeError: the action is no integer.
    """
    choice = choices[check_index("An action", action, len(choices))]
    return Completion(choice) if isinstance(choice, str) else choice.act([observation])[0]


@dataclass(frozen=True, slots=True)
class ChoosingAgent:
    """A policy over encoded observations and ready-made actions, as an agent: for ``play``, evaluation and serving.

    Attributes:
        policy: vectors of observations, shape (B, D) float32, to an index of ``choices`` for each, shape (B,) int.
        encoder: the one that the policy was trained with.
        choices: those that the policy was trained with.
    """

    policy: Callable[[NDArray[np.float32]], Iterable[SupportsIndex]]
    encoder: Encoder
    choices: Sequence[Choice]

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        """The chosen action for each observation.

        Raises:
            UsageError: the policy chose an action that there is not.
        """
        if not observations:
            return []
        actions = self.policy(encode_observations(self.encoder, observations))
        return [chosen(self.choices, action, seen) for action, seen in zip(actions, observations, strict=True)]
