"""Chat servers as players: the two roles of a game behind OpenAI-compatible URLs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from waltz_env.agents.templates import TEMPLATES
from waltz_env.checks import check_integer, check_number, check_settings
from waltz_env.errors import UsageError
from waltz_env.feedback import JSON_SCHEMA
from waltz_env.server_client import ServerClient
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID

if TYPE_CHECKING:
    from waltz_env.agents import OpenAIAgent


@dataclass(frozen=True, slots=True)
class Servers:
    """Which servers play which roles. $OPENAI_API_KEY is sent to them.

    Attributes:
        conversation_url: server of the conversation agent, e.g. http://127.0.0.1:8001/v1.
        conversation_model: its model name there.
        feedback_url: server of the feedback agent.
        feedback_model: its model name there.
        feedback_schema: ask that server to hold feedback to its JSON schema.
        server_parameters: JSON object of request parameters that replace those sent to the servers; null leaves one
            out, e.g. {"max_tokens": null, "max_completion_tokens": 2048}.
        temperature: sampling temperature of servers; a model in this process uses the one it was trained at.
        max_new_tokens: maximum tokens per turn, unless a run sets it.
    """

    conversation_url: str | None = None
    conversation_model: str = "conversation"
    feedback_url: str | None = None
    feedback_model: str = "feedback"
    feedback_schema: bool = False
    server_parameters: str = "{}"
    temperature: float = 1.0
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        check_settings(self)
        check_integer("max_new_tokens", self.max_new_tokens, at_least=1)
        check_number("temperature", self.temperature, low=0)

    @property
    def models(self) -> dict[AgentID, tuple[str, str]]:
        """URL and model name of each role that a server plays."""
        named = {
            CONVERSATION: (self.conversation_url, self.conversation_model),
            FEEDBACK: (self.feedback_url, self.feedback_model),
        }
        return {role: (url, model) for role, (url, model) in named.items() if url}

    def agents(self, *, timeout: float, deadline: float, max_concurrent: int = 32) -> dict[AgentID, OpenAIAgent]:
        """The agents of the roles that servers play.

        Args:
            timeout: seconds that an answer may take.
            deadline: seconds that a batch of answers may take.
            max_concurrent: maximum number of requests in flight to each server.

        Raises:
            UsageError: openai is not installed, or ``server_parameters`` is not a JSON object.
        """
        from waltz_env.agents import OpenAIAgent

        return {
            role: OpenAIAgent(
                model,
                TEMPLATES[role],
                server=ServerClient(
                    url,
                    api_key=os.environ.get("OPENAI_API_KEY") or "none",
                    max_concurrent=max_concurrent,
                    timeout=timeout,
                    deadline=deadline,
                    parameters=_json_object(self.server_parameters),
                ),
                temperature=self.temperature,
                max_tokens=self.max_new_tokens,
                json_schema=JSON_SCHEMA if role == FEEDBACK and self.feedback_schema else None,
            )
            for role, (url, model) in self.models.items()
        }

    def about(self) -> dict[AgentID, dict[str, Any]]:
        """How each role that a server plays acts, as results keep it; without what a URL may hold of a password."""
        settings = {
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "parameters": _json_object(self.server_parameters),
        }
        return {
            role: {"model": model, "server": _without_user(url), **settings}
            | ({"json_schema": self.feedback_schema} if role == FEEDBACK else {})
            for role, (url, model) in self.models.items()
        }


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UsageError(f"--server-parameters must be a JSON object; got {text!r}.")
    return value
