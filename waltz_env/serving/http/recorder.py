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
CLIENT_LEFT = 499
logger = logging.getLogger("waltz_env.serving")


class Recorder:
    """Gives each request an id, counts it and logs one line about it, whatever becomes of it.

    What the application knows about the answer it puts into ``scope["state"]["about"]``.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application, then records."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start = time.perf_counter()
        request_id = uuid.uuid4().hex
        about: dict[str, object] = {}
        answered = False
        scope.setdefault("state", {})["about"] = about
        status = 500  # until there is another: what is left if the application breaks off

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
            logger.info(
                "request",
                extra={
                    "about": {
                        "request_id": request_id,
                        "method": scope["method"],
                        "path": scope["path"] if scope["path"] in PATHS else "other",
                        "status": status,
                        "seconds": round(time.perf_counter() - start, 4),
                        **about,
                    }
                },
            )
        return None


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, what happened, and about which request.

    An exception is told by its type and the lines of code that it came through. Its message may quote what a user
    wrote, so it is left out.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
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
