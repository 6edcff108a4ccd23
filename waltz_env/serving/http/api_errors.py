"""Errors in OpenAI's form, so that its clients raise what their users expect. No message quotes a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi.responses import JSONResponse

from waltz_env.errors import AgentError, AgentFailure
from waltz_env.serving.http.schemas import ErrorBody, ErrorDetail

RETRY_AFTER = {"Retry-After": "1"}


class Problem(NamedTuple):
    """An error as it goes out."""

    status: int
    message: str
    code: str
    param: str | None = None
    headers: Mapping[str, str] | None = None

    def response(self) -> JSONResponse:
        """The answer that carries it."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        detail = ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code)
        return JSONResponse(ErrorBody(error=detail).model_dump(), self.status, headers=self.headers)


_OF_AGENTS: Mapping[AgentFailure, Problem] = {
    "timeout": Problem(504, "The conversation agent gave no answer in time.", "timeout"),
    "unavailable": Problem(
        503, "The conversation agent is not available; try again.", "unavailable", None, RETRY_AFTER
    ),
    "error": Problem(502, "The conversation agent failed.", "agent_error"),
    "too_long": Problem(
        400,
        "The messages do not fit the context of the conversation agent's model.",
        "context_length_exceeded",
        "messages",
    ),
    "unreadable": Problem(
        400,
        "The chat template of the conversation agent's model refuses these messages.",
        "invalid_messages",
        "messages",
    ),
}


def of_agent(error: AgentError) -> Problem:
    """What a client is told when there is no draft."""
    return _OF_AGENTS[error.kind]


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses for an endpoint's OpenAPI description."""
    return {status: {"model": ErrorBody} for status in statuses}
