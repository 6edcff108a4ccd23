"""The chat server, run by a real uvicorn on loopback, in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from tests.waiting import wait_until
from waltz_env.serving import Duet, create_app
from waltz_env.serving.http.server import configuration


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Base URL of the application, which stops gracefully at the end."""
    server = uvicorn.Server(configuration(app, host="127.0.0.1", port=0, drain=10))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        wait_until(lambda: server.started or not thread.is_alive())
        assert server.started
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
