"""Errors in OpenAI's form, so that its clients raise what their users expect. No message quotes a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi.responses import JSONResponse
from starlette.types import Scope

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

    def response(self, scope: Scope) -> JSONResponse:
        """Return the answer that carries the error, and put its reason on record for the log."""
        return JSONResponse(self._body(scope).model_dump(), self.status, headers=self.headers)

    def event(self, scope: Scope) -> str:
        """Return the last event of a stream that breaks off, and put its reason on record for the log."""
        return f"data: {self._body(scope).model_dump_json()}\n\n"

    def _body(self, scope: Scope) -> ErrorBody:
        about = scope["state"]["about"]
        about |= {"error": self.code, "message": self.message} | ({"param": self.param} if self.param else {})
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        return ErrorBody(error=ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code))


_BY_AGENT: Mapping[AgentFailure, Problem] = {
    "timeout": Problem(504, "The conversation agent gave no answer in time.", "timeout"),
    "unavailable": Problem(
        503, "The conversation agent is not available; try again.", "unavailable", None, RETRY_AFTER
    ),
    "overloaded": Problem(503, "The server is overloaded; try again.", "overloaded", None, RETRY_AFTER),
    "error": Problem(502, "The conversation agent failed.", "agent_error"),
    "too_long": Problem(
        400,
        "This chat does not fit the model's context. Send fewer or shorter messages.",
        "context_length_exceeded",
        "messages",
    ),
    "unreadable": Problem(
        400, "The model's chat template refuses this order of messages.", "invalid_messages", "messages"
    ),
}


def by_agent(error: AgentError) -> Problem:
    """Return what a client is told when there is no reply."""
    return _BY_AGENT[error.kind]


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return these statuses for an endpoint's OpenAPI description."""
    return {status: {"model": ErrorBody} for status in statuses}
