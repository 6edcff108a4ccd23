"""Observations and states as vectors, for small policies.

An observation's vector, of size ``4 + 3 * encoder.size``:

| columns | what |
|---|---|
| 0 | 1 if the agent is active: its action counts in the next step |
| 1 | 1 for the feedback agent, 0 for the conversation agent, so one policy can play both roles |
| 2, 3 | number of responses and of critiques so far, n as n / (n + 1) |
| then three blocks | the prompt (after its earlier messages), the latest response, the latest advice |

A state's vector has the same blocks, but the raw critique with its flags in place of the advice. Columns 0 and 1 say
whose turn it is: the conversation agent's, the feedback agent's, or nobody's (both 0). A text that does not exist yet
is encoded as the empty text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from waltz_env.types import CONVERSATION, FEEDBACK, Message, Observation
from waltz_env.wrappers.encoders import Encoder

_NUMBERS, _TEXTS = 4, 3


def encoded_space(encoder: Encoder) -> spaces.Box:
    """The space of the vectors of observations and states."""
    return spaces.Box(-1.0, 1.0, (_NUMBERS + _TEXTS * encoder.size,), np.float32)


def encode_observations(encoder: Encoder, observations: Sequence[Observation]) -> NDArray[np.float32]:
    """Returns one vector per observation, shape (len(observations), 4 + 3 * encoder.size) float32."""
    numbers = [
        (seen["active"], seen["agent"] == FEEDBACK, *_shares(seen["responses"], seen["feedback"]))
        for seen in observations
    ]
    texts = [
        text
        for seen in observations
        for text in (_asked(seen["history"], seen["prompt"]), _latest(seen["responses"]), _latest(seen["feedback"]))
    ]
    return _rows(encoder, numbers, texts)


def encode_state(encoder: Encoder, state: Mapping[str, Any]) -> NDArray[np.float32]:
    """Returns the vector of one ``WaltzSafetyEnv.state()``, shape (4 + 3 * encoder.size,) float32."""
    turn, responses, critiques = state["turn"], state["responses"], state["critiques"]
    numbers = (turn == CONVERSATION, turn == FEEDBACK, *_shares(responses, critiques))
    texts = [_asked(state["history"], state["prompt"]), _latest(responses), _latest(critiques)]
    return _rows(encoder, [numbers], texts)[0]


def _rows(encoder: Encoder, numbers: Sequence[tuple[float, ...]], texts: Sequence[str]) -> NDArray[np.float32]:
    blocks = encoder.encode(texts).reshape(len(numbers), _TEXTS * encoder.size)
    return np.hstack([np.array(numbers, np.float32).reshape(len(numbers), _NUMBERS), blocks])


def _shares(*said: Sequence[str]) -> tuple[float, ...]:
    """How many texts there are, as a number below 1 for any number of rounds."""
    return tuple(len(texts) / (len(texts) + 1) for texts in said)


def _asked(history: Sequence[Message], prompt: str) -> str:
    return "\n".join([*(message["content"] for message in history), prompt])


def _latest(texts: Sequence[str]) -> str:
    return texts[-1] if texts else ""
