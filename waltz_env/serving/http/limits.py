"""Limits of a chat server."""

from __future__ import annotations

from dataclasses import dataclass

from waltz_env.checks import check_integer, check_number, check_settings


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one server. Each must be above 0.

    Attributes:
        body_bytes: maximum size of a request's body.
        chat_chars: maximum number of characters in all messages of a chat together.
        concurrent: maximum number of chats in progress; more are turned away at once, with status 429.
        body_seconds: seconds in which a request's body must arrive.
    """

    body_bytes: int = 1_048_576
    chat_chars: int = 65_536
    concurrent: int = 256
    body_seconds: float = 10.0

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("body_bytes", "chat_chars", "concurrent"):
            check_integer(name, getattr(self, name), at_least=1)
        check_number("body_seconds", self.body_seconds, above=0)
