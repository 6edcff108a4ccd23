"""A tokenizer's chat template, and chats in the form that it accepts: for agents and judges on local models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from waltz_env.errors import UnreadablePromptError, UsageError
from waltz_env.types import Message

SYSTEM_ROLES = frozenset({"system", "developer"})
_PROBE = "waltz"

Chat = list[dict[str, Any]]
"""Messages as a chat template takes them: contents are strings, or lists of parts in multimodal models."""


class ChatTemplate:
    """Brings chats into the form that one tokenizer's chat template accepts.

    Templates differ in what they refuse. Every chat is therefore normalized (see ``normalized``), and a few probes at
    the start find out the rest: the system message joins the first user turn if the template refuses or drops it, a
    chat that the assistant opens gets an empty user turn before it, and contents become lists of parts.

    Args:
        tokenizer: tokenizer of transformers.

    Raises:
        UsageError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.chat_template is None:
            raise UsageError(
                "The tokenizer has no chat template. Use an instruction-tuned model, or set `tokenizer.chat_template`."
            )
        self._tokenizer = tokenizer
        self._in_parts = False
        self._in_parts = _PROBE not in self._probe({"role": "user", "content": _PROBE})
        user: Message = {"role": "user", "content": "x"}
        self._takes_system = _PROBE in self._probe({"role": "system", "content": _PROBE}, user)
        self._user_first = _PROBE not in self._probe({"role": "assistant", "content": _PROBE}, user)

    def chat(self, messages: Sequence[Message]) -> Chat:
        """The messages in the form that the template accepts."""
        chat = normalized(messages)
        turns = [message for message in chat if message["role"] != "system"]
        if self._user_first and turns and turns[0]["role"] == "assistant":
            chat.insert(len(chat) - len(turns), {"role": "user", "content": ""})
        return self._with_parts(chat if self._takes_system else fold_system(chat))

    def render(self, chats: Sequence[Chat], **options: Any) -> Any:
        """What ``apply_chat_template`` of the tokenizer makes of the chats.

        Raises:
            UnreadablePromptError: the template refuses some of them.
        """
        from jinja2 import TemplateError

        apply = self._tokenizer.apply_chat_template
        try:
            return apply(chats, **options)
        except TemplateError:
            refused = {row: reason for row, chat in enumerate(chats) if (reason := self._refusal(chat, options))}
        reason = next(iter(refused.values()))
        raise UnreadablePromptError(
            f"The model's chat template refuses {len(refused)} of {len(chats)} chats: {reason}",
            kind="unreadable",
            rows=refused,
        )

    def _refusal(self, chat: Chat, options: Mapping[str, Any]) -> str:
        """Why the template refuses the chat; empty if it does not."""
        from jinja2 import TemplateError

        try:
            self._tokenizer.apply_chat_template(chat, **options)
        except TemplateError as error:
            return f"{error} (roles: {', '.join(str(message['role']) for message in chat)})"
        return ""

    def _probe(self, *messages: Message) -> str:
        """What the template makes of a chat; nothing if it refuses it."""
        from jinja2 import TemplateError

        try:
            return str(self._tokenizer.apply_chat_template(self._with_parts(messages), tokenize=False))
        except TemplateError:
            return ""

    def _with_parts(self, messages: Sequence[Message]) -> Chat:
        return [
            {"role": message["role"], "content": [{"type": "text", "text": message["content"]}]}
            if self._in_parts
            else {"role": message["role"], "content": message["content"]}
            for message in messages
        ]


def normalized(messages: Sequence[Message]) -> list[Message]:
    r"""The same chat with one system message, at the head, and no two neighbors of one role.

    System and developer messages are joined, wherever they stand, and so are neighbors, with a blank line between them.
    Many chat templates refuse anything else.

    >>> normalized([{"role": "user", "content": "Hi."}, {"role": "user", "content": "Why?"}])
    [{'role': 'user', 'content': 'Hi.\n\nWhy?'}]
    """
    system = [message for message in messages if message["role"] in SYSTEM_ROLES]
    others = [message for message in messages if message["role"] not in SYSTEM_ROLES]
    chat: list[Message] = []
    for message in [*system, *others]:
        role = "system" if message["role"] in SYSTEM_ROLES else message["role"]
        if chat and chat[-1]["role"] == role:
            chat[-1]["content"] = "\n\n".join(filter(None, (chat[-1]["content"], message["content"])))
        else:
            chat.append({"role": role, "content": message["content"]})
    return chat


def fold_system(chat: Sequence[Message]) -> list[Message]:
    """The same chat without a system role: what the system message says opens the first user turn."""
    if not chat or chat[0]["role"] != "system":
        return list(chat)
    system, *turns = chat
    first = next((index for index, message in enumerate(turns) if message["role"] == "user"), 0)
    if not turns or turns[first]["role"] != "user":
        return [{"role": "user", "content": system["content"]}, *turns]
    joined = f"{system['content']}\n\n{turns[first]['content']}"
    return [*turns[:first], {"role": "user", "content": joined}, *turns[first + 1 :]]
