"""What a model-based judge asks: a language model, here or on a server, that answers greedily."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from waltz_env.judges.verdicts import NoVerdict
from waltz_env.server_client import RETRIES, Endpoint, ServerClient, ServerError
from waltz_env.types import Message

ROUNDS = 8


class Completer(Protocol):
    """A language model.

    Attributes:
        name: of the model.
    """

    name: str

    def complete(self, texts: Sequence[str]) -> Sequence[str | NoVerdict]:
        """What follows each text, in order, or why there is nothing."""
        ...

    def chat(self, conversations: Sequence[Sequence[Message]]) -> Sequence[str | NoVerdict]:
        """The next turn of each conversation, in the model's own chat template."""
        ...


class ServerCompleter:
    """A model on an OpenAI-compatible server, asked many times at once at temperature 0.

    Args:
        model: its name at the server.
        max_tokens: of one answer.
        json_schema: the server is asked to hold the turns of ``chat`` to it (``response_format``).
        base_url: as of ``ServerClient``, as are ``api_key``, ``max_concurrent``, ``timeout`` and ``retries``.
        deadline: seconds for each ``8 * max_concurrent`` of the requests of a call.

    Raises:
        UsageError: as of ``ServerClient``.
    """

    def __init__(
        self,
        model: str,
        *,
        max_tokens: int = 128,
        json_schema: Mapping[str, Any] | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        max_concurrent: int = 32,
        timeout: float = 60.0,
        deadline: float = 600.0,
        retries: int = RETRIES,
    ) -> None:
        self.name = model
        self._settings = {"model": model, "temperature": 0.0, "max_tokens": max_tokens}
        self._form: dict[str, Any] = {}
        self._batch = ROUNDS * max_concurrent
        if json_schema is not None:
            schema = {"name": "verdict", "strict": True, "schema": dict(json_schema)}
            self._form["response_format"] = {"type": "json_schema", "json_schema": schema}
        self._server = ServerClient(
            base_url=base_url,
            api_key=api_key,
            max_concurrent=max_concurrent,
            timeout=timeout,
            deadline=deadline,
            retries=retries,
        )

    def complete(self, texts: Sequence[str]) -> list[str | NoVerdict]:
        """What follows each text (``/completions``)."""
        return self._ask("completions", [{"prompt": text} for text in texts])

    def chat(self, conversations: Sequence[Sequence[Message]]) -> list[str | NoVerdict]:
        """The next turn of each conversation (``/chat/completions``); the server applies the chat template."""
        return self._ask("chat/completions", [{"messages": list(turns), **self._form} for turns in conversations])

    def close(self) -> None:
        """Closes the connections. Nothing can be asked after that."""
        self._server.close()

    def _ask(self, endpoint: Endpoint, requests: Sequence[dict[str, Any]]) -> list[str | NoVerdict]:
        answers: list[str | ServerError] = []
        for start in range(0, len(requests), self._batch):  # the deadline is one batch's, and a call may have thousands
            batch = [{**self._settings, **request} for request in requests[start : start + self._batch]]
            answers += self._server.run(self._server.ask(endpoint, batch))
        return [NoVerdict(str(answer)) if isinstance(answer, ServerError) else _read(answer) for answer in answers]


def _read(body: str) -> str | NoVerdict:
    """The text of the only choice in a server's answer, of either endpoint."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return NoVerdict("the server answered with something that is no JSON.")
    match value:
        case {"choices": [{"text": str(text)}] | [{"message": {"content": str(text)}}]}:
            return text
    return NoVerdict("the server answered with something that is no completion.")
