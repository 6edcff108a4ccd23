"""What stands before the application: keys, limits and content types. Plain ASGI, so streams pass."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from waltz_env.serving.http.api_errors import RETRY_AFTER, Problem
from waltz_env.serving.http.limits import Limits
from waltz_env.serving.http.metrics import Metrics

CHAT = "/v1/chat/completions"


class Gate:
    """Admits a request only with a key (under ``/v1``), a free place, and a body within the limits.

    The body is read here, up to its limit, before the application sees any of it.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, metrics: Metrics, api_keys: Sequence[str]) -> None:
        self.app = app
        self.limits = limits
        self.metrics = metrics
        self._keys = [key.encode() for key in api_keys]
        self._in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer what is wrong with it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"].startswith("/v1") and self._keys and not self._knows(Headers(scope=scope)):
            return await NO_KEY.response(scope)(scope, receive, send)
        if scope["path"] != CHAT:
            return await self._read_then_run(scope, receive, send)
        if scope["method"] == "POST" and not _is_json(MutableHeaders(scope=scope)):
            return await NOT_JSON.response(scope)(scope, receive, send)
        if self._in_progress >= self.limits.concurrent:
            return await FULL.response(scope)(scope, receive, send)
        self._in_progress += 1
        self.metrics.in_flight.set(self._in_progress)
        try:
            return await self._read_then_run(scope, receive, send)
        finally:
            self._in_progress -= 1
            self.metrics.in_flight.set(self._in_progress)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip().encode("latin-1", errors="replace")
        known = [hmac.compare_digest(given, each) for each in self._keys]  # all of them, so that the time tells nothing
        return scheme.lower() == "bearer" and any(known)

    async def _read_then_run(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > self.limits.body_bytes:
            return await self._too_large().response(scope)(scope, receive, send)
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                body = await self._body(receive)
        except TimeoutError:
            return await SLOW.response(scope)(scope, receive, send)
        if isinstance(body, Problem):
            return await body.response(scope)(scope, receive, send)
        if body is None:
            return None
        return await self.app(scope, _replay(body, receive), send)

    async def _body(self, receive: Receive) -> bytes | Problem | None:
        """The whole body; None if the client has left."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self.limits.body_bytes:
                return self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> Problem:
        return Problem(413, f"The body is larger than {self.limits.body_bytes} bytes.", "body_too_large")


NO_KEY = Problem(
    401,
    "A valid API key is needed, in the header Authorization: Bearer ...",
    "invalid_api_key",
    None,
    {"WWW-Authenticate": "Bearer"},
)
NOT_JSON = Problem(415, "The body must be JSON, with Content-Type: application/json.", "unsupported_media_type")
FULL = Problem(429, "Too many requests are in progress; try again.", "too_many_requests", None, RETRY_AFTER)
SLOW = Problem(408, "The body did not arrive in time.", "request_timeout", None, {"Connection": "close"})


def _is_json(headers: MutableHeaders) -> bool:
    """Whether the body is declared as JSON; a body of no declared type is taken for it."""
    kind = headers.setdefault("content-type", "application/json").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that yields the body first, and then what the connection yields."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
