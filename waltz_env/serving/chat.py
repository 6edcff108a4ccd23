"""A chat as the game's prompt."""

from __future__ import annotations

from collections.abc import Sequence

from waltz_env.errors import UsageError, unknown_name
from waltz_env.types import Kind, Message, Prompt

SYSTEM_ROLES = frozenset({"system", "developer"})
ROLES = ("assistant", "developer", "system", "user")


def chat_prompt(messages: Sequence[Message]) -> Prompt:
    """The last user turn as a prompt with what came before as its history.

    System messages, wherever they stand, are joined and open the history: chat templates take one, at the head. The
    conversation agent's own system prompt comes before them. A game in use is not judged, so the prompt's kind, which
    no agent sees, means nothing.

    Raises:
        UsageError: no messages, an unknown role, or the last message is not the user's.
    """
    for message in messages:
        if message["role"] not in ROLES:
            raise unknown_name("role", message["role"], ROLES)
    turns = [message for message in messages if message["role"] not in SYSTEM_ROLES]
    if not turns or turns[-1]["role"] != "user" or messages[-1]["role"] != "user":
        raise UsageError(
            f"The last message must be the user's; got {messages[-1]['role'] + ' last' if messages else 'no messages'}."
        )
    system = "\n\n".join(message["content"] for message in messages if message["role"] in SYSTEM_ROLES)
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    history = [*opening, *(Message(role=turn["role"], content=turn["content"]) for turn in turns[:-1])]
    return Prompt(turns[-1]["content"], Kind.BENIGN, history=tuple(history))
