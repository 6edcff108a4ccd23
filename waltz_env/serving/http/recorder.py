"""The record of every request: an id, a count, one line of JSON."""

from __future__ import annotations

import json
import logging
import time
import traceback
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from waltz_env.serving.http.metrics import Metrics

PATHS = frozenset({"/v1/chat/completions", "/v1/models", "/healthz", "/metrics"})
KNOWN_ELSEWHERE = frozenset(
    "/v1/audio/speech /v1/audio/transcriptions /v1/completions /v1/embeddings /v1/images/generations /v1/messages "
    "/v1/moderations /v1/responses /api/chat /api/generate /chat/completions /completions /models /tokenize".split()
)
"""Paths of other servers' endpoints. Those may stand in the log; any other path may hold a user's text."""

MODEL = "/v1/models/"
CLIENT_LEFT = 499
logger = logging.getLogger("waltz_env.serving")


class Recorder:
    """Gives each request an id, counts it, and logs one line about it, whatever happens to it.

    The application puts what it knows about the answer into ``scope["state"]["about"]``. The line is a warning
    if the game behind an answer failed, so that the answer is unreviewed or a refusal.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, then record."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start = time.perf_counter()
        request_id = uuid.uuid4().hex
        about: dict[str, object] = {}
        answered = False
        scope.setdefault("state", {})["about"] = about
        status = 500  # stays if the application breaks off

        async def recorded_send(message: Message) -> None:
            nonlocal answered, status
            if message["type"] == "http.response.start":
                answered = True
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, recorded_send)
            status = status if answered else CLIENT_LEFT
        finally:
            self.metrics.requests.labels(status).inc()
            logger.log(
                logging.WARNING if about.get("failure") and status == 200 else logging.INFO,
                "request",
                extra={
                    "about": {
                        "request_id": request_id,
                        "method": scope["method"],
                        "path": _shown(scope["path"]),
                        "status": status,
                        "seconds": round(time.perf_counter() - start, 4),
                        **about,
                    }
                },
            )
        return None


def _shown(path: str) -> str:
    """The path as it may stand in the log."""
    if path.startswith(MODEL):
        return f"{MODEL}..."
    return path if path in PATHS | KNOWN_ELSEWHERE else "other"


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, event, and the request that it is about.

    An exception is told by its type and the lines of code that it passed through. Its message may quote what a user
    wrote, so it is left out.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "about", {}),
        }
        if record.exc_info and record.exc_info[0]:
            line["exception"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])
            line["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(line)
