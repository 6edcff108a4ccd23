"""Actions to choose from, for policies that cannot write text."""

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
"""A text, or an agent whose text depends on the observation."""

_UNSAFE, _OVERREFUSE = Labels(unsafe=True, overrefuse=False), Labels(unsafe=False, overrefuse=True)

CHOICES: Mapping[AgentID, Sequence[Choice]] = MappingProxyType(
    {
        # Refuse; answer; do what the latest advice says. Without advice the last one answers; if the advice says
        # neither, it repeats the latest response.
        CONVERSATION: (REFUSAL, ANSWER, FollowAdvice(answers=1.0)),
        # Flag nothing; unsafe, with advice to refuse; overrefusing, with advice to answer. The conversation agent has
        # the same number of actions, so one policy can play both roles.
        FEEDBACK: (
            format_feedback(Labels(unsafe=False, overrefuse=False), NO_ADVICE),
            format_feedback(_UNSAFE, advise(_UNSAFE)),
            format_feedback(_OVERREFUSE, advise(_OVERREFUSE)),
        ),
    }
)
"""The ready-made actions of each agent, by index."""


def chosen(choices: Sequence[Choice], action: SupportsIndex, observation: Observation) -> Completion:
    """Returns what the choice with index ``action`` says.

    Raises:
        UsageError: the index is out of range.
        UsageTypeError: the action is not an integer.
    """
    choice = choices[check_index("An action", action, len(choices))]
    return Completion(choice) if isinstance(choice, str) else choice.act([observation])[0]


@dataclass(frozen=True, slots=True)
class ChoosingAgent:
    """An agent made of a policy over vectors and ready-made actions: for ``play``, evaluation and serving.

    Attributes:
        policy: maps observation vectors, shape (B, D) float32, to one index into ``choices`` each, shape (B,) int.
        encoder: the encoder that the policy was trained with.
        choices: the choices that the policy was trained with.
    """

    policy: Callable[[NDArray[np.float32]], Iterable[SupportsIndex]]
    encoder: Encoder
    choices: Sequence[Choice]

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        """Returns the chosen action per observation.

        Raises:
            UsageError: the policy chose an index that is out of range.
        """
        if not observations:
            return []
        actions = self.policy(encode_observations(self.encoder, observations))
        return [chosen(self.choices, action, seen) for action, seen in zip(actions, observations, strict=True)]
