"""Runs the application until it is told to stop."""

from __future__ import annotations

import logging
import sys

import uvicorn
from fastapi import FastAPI

from waltz_env.serving.http.recorder import JsonLines

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than clients keep theirs, or a request may meet its closing."""


def configuration(app: FastAPI, *, host: str, port: int, drain: float) -> uvicorn.Config:
    """How uvicorn runs the application; see ``serve``."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(drain) + 1,
    )


def serve(app: FastAPI, *, host: str, port: int, drain: float) -> None:
    """Serves until SIGINT or SIGTERM; then takes nothing new, finishes what is under way, and returns.

    Args:
        app: what ``create_app`` made.
        host: address to listen on.
        port: 0 takes a free one; the log tells which.
        drain: seconds that requests under way are given to finish.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for chatty in ("httpx", "httpx2", "openai"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    uvicorn.Server(configuration(app, host=host, port=port, drain=drain)).run()
