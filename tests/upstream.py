"""A real HTTP server on loopback that answers chats as it is told: well, badly, or not at all."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from waltz_env.loop_thread import LoopThread
from waltz_env.server_client import ServerClient

Json = dict[str, Any]
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
Script = Callable[[Json, int], Answer]
"""From a request's body and its number, counted from 0, to what is done about it."""

SOON = {"retry-after-ms": "1"}


def sends(body: str, *, status: int = 200, after: float = 0.0, headers: dict[str, str] | None = None) -> Answer:
    """A whole HTTP answer with this body."""

    async def send(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(after)
        content = body.encode()
        head = {
            "content-type": "application/json",
            "content-length": str(len(content)),
            "connection": "close",
            **(headers or {}),
        }
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in head.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + content)
        await writer.drain()

    return send


def completion(text: str | None, *, finish: str = "stop", choice: Json | None = None, **fields: Any) -> str:
    """A chat completion as JSON; ``choice`` and ``fields`` are added to it."""
    message = {"role": "assistant", "content": text}
    return json.dumps({"choices": [{"message": message, "finish_reason": finish, **(choice or {})}], **fields})


def says(text: str, *, after: float = 0.0) -> Answer:
    """A good chat completion."""
    return sends(completion(text), after=after)


def fails(status: int) -> Answer:
    """An error that may be tried again at once."""
    return sends('{"error": {"message": "no"}}', status=status, headers=SOON)


async def hangs(_: asyncio.StreamWriter) -> None:
    """Nothing, ever."""
    await asyncio.Event().wait()


def once(event: threading.Event, answer: Answer) -> Answer:
    """The answer, as soon as the event is set."""

    async def wait(writer: asyncio.StreamWriter) -> None:
        await asyncio.to_thread(event.wait, 20)
        await answer(writer)

    return wait


async def drops(_: asyncio.StreamWriter) -> None:
    """The connection is closed without a word."""


async def breaks_off(writer: asyncio.StreamWriter) -> None:
    """The connection is closed in the middle of the body."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
    await writer.drain()


def always(answer: Answer) -> Script:
    """The same, whatever is asked."""
    return lambda body, number: answer


def in_turn(*answers: Answer) -> Script:
    """One answer for each request as they come; the last one from then on."""
    return lambda body, number: answers[min(number, len(answers) - 1)]


class Upstream:
    """The server. It runs from construction until ``stop``; ``start`` brings it back on the same port.

    Attributes:
        requests: the body of every chat that came.
        now: chats under way; ``most``: at once so far; ``left``: whose client hung up before the answer.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Json] = []
        self.now = self.most = self.left = 0
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._changed = threading.Condition()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def client(self, **settings: Any) -> ServerClient:
        """A client of this server."""
        return ServerClient(self.url, api_key="none", **settings)

    def start(self) -> None:
        self._loop = LoopThread()
        server = self._loop.run(asyncio.start_server(self._answer, "127.0.0.1", self.port))
        self.port = server.sockets[0].getsockname()[1]
        self._server = server

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Blocks until the condition holds for ``requests``, ``now``, ``most`` or ``left``."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout=20)

    def stop(self) -> None:
        """Every connection is cut."""
        self._loop.run(self._close())
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        for _ in range(10):  # rounds of the loop in which connections just accepted get to their handlers
            await asyncio.sleep(0)
        for writer in self._writers:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._count(now=1)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.split("content-length:")[1].split("\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            self._count(request=body)
            answering = asyncio.ensure_future(self.script(body, len(self.requests) - 1)(writer))
            leaving = asyncio.ensure_future(reader.read())
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            self._count(left=not answering.done())
            answering.cancel()
            leaving.cancel()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the client was there only to look, or left; or the server is stopped
        finally:
            self._count(now=-1)
            self._writers.remove(writer)
            writer.close()

    def _count(self, *, now: int = 0, left: bool = False, request: Json | None = None) -> None:
        with self._changed:
            self.now += now
            self.most = max(self.most, self.now)
            self.left += left
            if request is not None:
                self.requests.append(request)
            self._changed.notify_all()
