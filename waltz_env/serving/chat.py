"""A chat as the game's prompt."""

from __future__ import annotations

from collections.abc import Sequence

from waltz_env.errors import UsageError, unknown_name
from waltz_env.types import Kind, Message, Prompt

SYSTEM_ROLES = frozenset({"system", "developer"})
ROLES = ("assistant", "developer", "system", "user")


def chat_prompt(messages: Sequence[Message]) -> Prompt:
    """Return the last user turn as a prompt, with the earlier messages as its history.

    System messages, wherever they stand, are joined and open the history: chat templates take one, at the head. The
    conversation agent's own system prompt comes before them. Games in production are not judged, so the prompt's kind,
    which no agent sees, has no meaning.

    Raises:
        UsageError: there are no messages, a role is unknown, or the last message is not the user's, system messages
            aside.
    """
    for message in messages:
        if message["role"] not in ROLES:
            raise unknown_name("role", message["role"], ROLES)
    turns = [message for message in messages if message["role"] not in SYSTEM_ROLES]
    if not turns or turns[-1]["role"] != "user":
        last = f"{turns[-1]['role']} last" if turns else "no message of the user"
        raise UsageError(f"The last message must be the user's; got {last}.")
    system = "\n\n".join(message["content"] for message in messages if message["role"] in SYSTEM_ROLES)
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    history = [*opening, *(Message(role=turn["role"], content=turn["content"]) for turn in turns[:-1])]
    return Prompt(turns[-1]["content"], Kind.BENIGN, history=tuple(history))
