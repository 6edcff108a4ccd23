"""Runs the application until it is told to stop."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Mapping
from types import FrameType

import uvicorn
from fastapi import FastAPI

from waltz_env.errors import UsageError
from waltz_env.serving.http.recorder import JsonLines

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than clients keep theirs, or a request may meet its closing."""
LONGEST_DRAIN = 86_400

logger = logging.getLogger("waltz_env.serving")


def listen(host: str, port: int) -> socket.socket:
    """Reserve an address. Connections are refused until ``serve`` gets the socket.

    Args:
        host: address to listen on.
        port: port to listen on; 0 takes a free one.

    Raises:
        UsageError: the address is taken or is not this machine's.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise UsageError(f"Cannot listen on {host}, port {port}: {error}. Choose another port or address.") from error
    return listening


def configuration(app: FastAPI, *, drain: float) -> uvicorn.Config:
    """Return how uvicorn runs the application; see ``serve``."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(min(drain, LONGEST_DRAIN)) + 1,
    )


def serve(
    app: FastAPI,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    drain: float,
    listening: socket.socket | None = None,
    about: Mapping[str, object] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; then accept nothing new, finish what is in progress, and return.

    A second signal ends the process at once.

    Args:
        app: the application that ``create_app`` returned.
        host: address to listen on.
        port: port to listen on; 0 takes a free one, which the log tells.
        drain: seconds in which requests in progress may finish; then they are dropped, and models stop generating.
        listening: socket that ``listen`` returned, in place of ``host`` and ``port``.
        about: what the first line of the log tells besides the address.

    Raises:
        UsageError: see ``listen``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for chatty in ("httpx", "httpx2", "openai", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with listening or listen(host, port) as bound:
        _Server(configuration(app, drain=drain), about or {}).run(sockets=[bound])


class _Server(uvicorn.Server):
    """uvicorn with a first line of the log that says what is served, once it is."""

    def __init__(self, config: uvicorn.Config, about: Mapping[str, object]) -> None:
        super().__init__(config)
        self.about = about

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Log the address once connections are accepted."""
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        logger.info("serving", extra={"about": {"url": url, **self.about}})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop after the requests in progress. The next signal finds no handler, so it ends the process."""
        super().handle_exit(sig, frame)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
