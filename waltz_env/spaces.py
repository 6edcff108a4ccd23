"""The spaces of the game: text of any characters, and spaces built from it."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
from gymnasium import spaces

from waltz_env.errors import UsageError

MAX_PROMPT_CHARS = 1_048_576
_MAX_NAME_CHARS = 64
_SAMPLE_CHARS = string.ascii_letters + string.digits + " .,!?'\"{}:\n"
_SAMPLE_LENGTH = 64


class UnicodeText(spaces.Text):
    r"""All strings whose length lies within the bounds, including control characters and lone surrogates.

    ``gymnasium.spaces.Text`` needs a list of allowed characters, letters and digits by default: even ``"hello world"``
    is not in it. For what a language model may write there is no such list.

    Samples are printable and short: at most 64 characters longer than ``min_length``.

    >>> "hello world \ud800" in UnicodeText(20)
    True
    >>> "hello world" in UnicodeText(5)
    False

    Args:
        max_length: longest length in characters (Unicode code points), inclusive.
        min_length: shortest length, inclusive.
        seed: seeds the samples.

    Raises:
        UsageError: the bounds are not ``0 <= min_length <= max_length``.
    """

    def __init__(self, max_length: int, *, min_length: int = 0, seed: int | np.random.Generator | None = None) -> None:
        if not 0 <= min_length <= max_length:
            raise UsageError(
                f"A text space needs 0 <= min_length <= max_length; got min_length={min_length}, "
                f"max_length={max_length}."
            )
        super().__init__(max_length, min_length=min_length, charset=_SAMPLE_CHARS, seed=seed)

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a string whose length lies within the bounds."""
        return isinstance(x, str) and self.min_length <= len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Returns a short printable string. A mask for the length and the characters works as in ``Text``."""
        if mask is None and probability is None:
            longest = min(self.max_length, self.min_length + _SAMPLE_LENGTH)
            mask = (int(self.np_random.integers(self.min_length, longest + 1)), None)
        return super().sample(mask=mask, probability=probability)

    @property
    def is_np_flattenable(self) -> bool:
        """False: without a list of characters, text cannot be put into an array of fixed width."""
        return False

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length}, min_length={self.min_length})"

    def __eq__(self, other: object, /) -> bool:
        return (
            isinstance(other, UnicodeText)
            and self.min_length == other.min_length
            and self.max_length == other.max_length
        )


def observation_space(max_chars: int) -> spaces.Dict:
    """The space of an ``Observation``. It does not depend on the prompts, so train and test environments share it."""
    return spaces.Dict(
        {
            "agent": UnicodeText(_MAX_NAME_CHARS),
            "active": spaces.Discrete(2),
            **_conversation(max_chars),
            "feedback": spaces.Sequence(UnicodeText(max_chars)),
        }
    )


def state_space(max_chars: int) -> spaces.Dict:
    """The space of the global state: the conversation, the raw critiques, whose turn it is (``""`` for nobody)."""
    return spaces.Dict(
        {
            **_conversation(max_chars),
            "critiques": spaces.Sequence(UnicodeText(max_chars)),
            "turn": UnicodeText(_MAX_NAME_CHARS),
        }
    )


def _conversation(max_chars: int) -> dict[str, spaces.Space[Any]]:
    message = spaces.Dict({"role": UnicodeText(_MAX_NAME_CHARS), "content": UnicodeText(MAX_PROMPT_CHARS)})
    return {
        "prompt": UnicodeText(MAX_PROMPT_CHARS),
        "history": spaces.Sequence(message),
        "responses": spaces.Sequence(UnicodeText(max_chars)),
    }
