"""Language models that judges ask, in this process or on a server, decoded greedily."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from waltz_env.server_client import Endpoint, ServerClient, ServerError
from waltz_env.types import Message, NoVerdict

ROUNDS = 8


class Completer(Protocol):
    """A language model that completes texts and chats.

    Attributes:
        name: name of the model.
    """

    name: str

    def complete(self, texts: Sequence[str]) -> Sequence[str | NoVerdict]:
        """Continues each text, in order; ``NoVerdict`` says why there is no continuation."""
        ...

    def chat(self, conversations: Sequence[Sequence[Message]]) -> Sequence[str | NoVerdict]:
        """Returns the next turn of each conversation, rendered with the model's own chat template."""
        ...


class ServerCompleter:
    """A model on an OpenAI-compatible server, asked many times at once at temperature 0.

    Args:
        model: the model's name on the server.
        server: connection to the server; None: ``ServerClient()``. Its deadline holds for every ``8 * max_concurrent``
            requests of a call.
        max_tokens: maximum number of tokens per answer.
        json_schema: JSON schema that the server should hold the turns of ``chat`` to (``response_format``).
    """

    def __init__(
        self,
        model: str,
        *,
        server: ServerClient | None = None,
        max_tokens: int = 128,
        json_schema: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = model
        self._settings = {"model": model, "temperature": 0.0, "max_tokens": max_tokens}
        self._form: dict[str, Any] = {}
        if json_schema is not None:
            schema = {"name": "verdict", "strict": True, "schema": dict(json_schema)}
            self._form["response_format"] = {"type": "json_schema", "json_schema": schema}
        self.server = server or ServerClient()

    def complete(self, texts: Sequence[str]) -> list[str | NoVerdict]:
        """Continues each text (``/completions``)."""
        return self._ask("completions", [{"prompt": text} for text in texts])

    def chat(self, conversations: Sequence[Sequence[Message]]) -> list[str | NoVerdict]:
        """Returns the next turn of each conversation (``/chat/completions``); the server applies the chat template."""
        return self._ask("chat/completions", [{"messages": list(turns), **self._form} for turns in conversations])

    def close(self) -> None:
        """Close the connections of ``server``. Nothing can be asked after that."""
        self.server.close()

    def _ask(self, endpoint: Endpoint, requests: Sequence[dict[str, Any]]) -> list[str | NoVerdict]:
        answers: list[str | ServerError] = []
        size = ROUNDS * self.server.max_concurrent
        for start in range(0, len(requests), size):  # the deadline is per batch, and a call may have thousands
            batch = [{**self._settings, **request} for request in requests[start : start + size]]
            answers += self.server.run(self.server.ask(endpoint, batch))
        return [NoVerdict(str(answer)) if isinstance(answer, ServerError) else _read(answer) for answer in answers]


def _read(body: str) -> str | NoVerdict:
    """The text of the only choice in a server's answer, of either endpoint.

    OpenAI's models refuse to fill in a JSON schema in a field of its own, ``refusal``, with an empty content beside it.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return NoVerdict("The server answered with something that is not JSON.")
    match value:
        case {"choices": [{"finish_reason": "content_filter"}]}:
            return NoVerdict("The server's content filter stopped the model's answer.")
        case {"choices": [{"message": {"refusal": str(reason)}}]} if reason:
            return NoVerdict(f"The model refused to judge: {reason[:80]!r}.")
        case {"choices": [{"text": str(text)}] | [{"message": {"content": str(text)}}]}:
            return text
    return NoVerdict("The server answered with something that is not a completion.")
