"""How much a chat server takes on."""

from __future__ import annotations

from dataclasses import dataclass

from waltz_env.errors import UsageError


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes on.

    Attributes:
        body_bytes: of one request.
        chat_chars: of all messages of a chat together.
        concurrent: chats under way at once; more are turned away at once (429), so that waiting stays bounded.
        body_seconds: for a request's body to arrive.
    """

    body_bytes: int = 1_048_576
    chat_chars: int = 65_536
    concurrent: int = 256
    body_seconds: float = 10.0

    def __post_init__(self) -> None:
        if min(self.body_bytes, self.chat_chars, self.concurrent, self.body_seconds) <= 0:
            raise UsageError(f"Every limit must be above 0; got {self}.")
