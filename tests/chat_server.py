"""The chat server, run by a real uvicorn on loopback, in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from waltz_env.serving import Duet, create_app
from waltz_env.serving.http.server import configuration


class _Server(uvicorn.Server):
    """uvicorn that tells when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def running(app: FastAPI, *, drain: float = 10) -> Iterator[str]:
    """Base URL of the application, which stops gracefully at the end."""
    server = _Server(configuration(app, drain=drain))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        assert server.ready.wait(20)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def serving(duet: Duet, **options) -> Iterator[str]:
    """Base URL of a server of ``duet``."""
    with running(create_app(duet, **options)) as url:
        yield url
