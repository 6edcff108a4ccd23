"""Many requests at once to an OpenAI-compatible server: vLLM, llama.cpp, a hosted model, or ``waltz serve``."""

from __future__ import annotations

import asyncio
import operator
import re
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from waltz_env.checks import check_duration, check_integer
from waltz_env.errors import AgentFailure, UsageError, WaltzError
from waltz_env.extras import install_command
from waltz_env.loop_thread import LoopThread
from waltz_env.per_process import PerProcess

T = TypeVar("T")
Endpoint = Literal["chat/completions", "completions"]

RETRIES = 4
BUSY = frozenset({429, 503})
KEY_REFUSED = frozenset({401, 403})

TOO_LONG = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_TOO_LONG_WORDS = re.compile(r"(maximum|exceed\w*)\b.{0,40}\bcontext|context (length|window|size)", re.IGNORECASE)
_IDENTIFIER = re.compile(r"[\w.\[\]-]{1,64}", re.ASCII)


class ServerError(WaltzError, RuntimeError):
    """A server gave no answer to one request, after all retries.

    Args:
        message: what the server did. Never quotes a request or an answer.
        kind: as in ``AgentError``.
    """

    def __init__(self, message: str, *, kind: AgentFailure) -> None:
        super().__init__(message)
        self.kind = kind


class ServerClient:
    """A connection to one server: the official client, with bounded concurrency and a deadline per batch.

    Agents and judges that share a client share its limits. Errors that may pass (no connection, 408, 409, 429, 5xx)
    are retried with exponential back-off; ``Retry-After`` is respected. ``run`` works anywhere, also in notebooks. A
    client can be pickled, its key included; a copy and a forked child open connections of their own.

    Args:
        base_url: e.g. ``http://127.0.0.1:8000/v1``. None: ``$OPENAI_BASE_URL``, or OpenAI.
        api_key: API key; None: ``$OPENAI_API_KEY``. Local servers usually accept any.
        max_concurrent: maximum number of requests in flight, over all batches.
        timeout: seconds that one attempt may wait for the next byte.
        deadline: seconds that a whole batch may take, including retries and waiting for a free slot.
        retries: maximum number of retries per request.
        parameters: request parameters that replace or extend those of every request; None leaves one out. For example,
            many reasoning models need ``{"max_tokens": None, "max_completion_tokens": 2048, "temperature": None}``.

    Raises:
        UsageError: openai is not installed, no key is set, or a limit is out of range.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        max_concurrent: int = 32,
        timeout: float = 60.0,
        deadline: float = 600.0,
        retries: int = RETRIES,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        check_integer("max_concurrent", max_concurrent, at_least=1)
        check_integer("retries", retries, at_least=0)
        check_duration("timeout", timeout)
        check_duration("deadline", deadline)
        self.max_concurrent = operator.index(max_concurrent)
        self.deadline = deadline
        self.parameters = dict(parameters or {})
        self._loop = LoopThread()
        self._connection = PerProcess(
            partial(_connect, base_url, api_key, self.max_concurrent, timeout, operator.index(retries))
        )
        self._connection()  # wrong settings are an error here, and not at the first request

    @property
    def base_url(self) -> str:
        """The server's address, with defaults resolved."""
        return str(self._connection().client.base_url)

    async def ask(
        self,
        endpoint: Endpoint,
        requests: Sequence[Mapping[str, Any]],
        *,
        started: Callable[[], None] = lambda: None,
        on_chunk: Sequence[Callable[[str], None] | None] = (),
    ) -> list[str | ServerError]:
        """Return the body of each answer, or the error in its place, in order. Await it on the client's own loop.

        Args:
            endpoint: path below ``base_url``.
            requests: arguments of the official client's ``create``.
            started: called whenever a request has got a free slot and is about to be sent.
            on_chunk: for each request, what is called with every chunk of its stream, as JSON; None for an answer that
                comes whole. The body of a stream is empty. Once it has begun, it is not tried again. A server may
                answer whole all the same.
        """
        by = asyncio.get_running_loop().time() + self.deadline
        hearers = on_chunk or [None] * len(requests)
        return await asyncio.gather(
            *(self._ask(endpoint, each, by, started, hearer) for each, hearer in zip(requests, hearers, strict=True))
        )

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the client's loop and return its result."""
        return self._loop.run(coroutine)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the client's loop. Cancelling the future drops its requests."""
        return self._loop.submit(coroutine)

    def close(self) -> None:
        """Close the connections, also for others who share the client. No requests are possible after that."""
        connection = self._connection.made()
        if connection is not None and not connection.client.is_closed():
            self._loop.run(connection.client.close())
        self._loop.close()

    async def _ask(
        self,
        endpoint: Endpoint,
        request: Mapping[str, Any],
        by: float,
        started: Callable[[], None],
        on_chunk: Callable[[str], None] | None,
    ) -> str | ServerError:
        import openai

        client, slots = self._connection().client, self._connection().slots
        resource = client.chat.completions if endpoint == "chat/completions" else client.completions
        create: Any = resource.with_raw_response.create

        def failed(what: str, kind: AgentFailure) -> ServerError:
            return ServerError(f"The server of {request['model']!r} at {self.base_url} {what}.", kind=kind)

        try:
            async with asyncio.timeout_at(by), slots:
                started()
                arguments = _with_parameters(request, self.parameters)
                if on_chunk is None:
                    return (await create(**arguments)).text
                answer = await create(**arguments, stream=True)
                if "event-stream" not in answer.headers.get("content-type", ""):  # it came whole all the same
                    return (await answer.http_response.aread()).decode(errors="replace")
                async with answer.parse() as stream:
                    async for chunk in stream:
                        on_chunk(chunk.model_dump_json(warnings=False))
                return ""
        except TimeoutError:
            return failed(f"gave no answer within the deadline of {self.deadline:g} s", "timeout")
        except openai.APITimeoutError:
            return failed("gave no answer in time, however often it was asked", "timeout")
        except openai.APIStatusError as error:
            if _is_too_long(error):
                return failed("says that a prompt is longer than the model's context", "too_long")
            return failed(
                f"answered with status {error.status_code}{_reason(error)}",
                "overloaded" if error.status_code in BUSY else "error",
            )
        except (openai.APIConnectionError, _dropped()):
            return failed("could not be reached or dropped the connection", "unavailable")
        except (openai.OpenAIError, ValueError):  # the second for a chunk that is not JSON
            return failed("answered with something that cannot be read", "error")


@dataclass(frozen=True, slots=True)
class _Connection:
    """An ``openai.AsyncOpenAI``, and a slot for each request that may be in flight."""

    client: Any
    slots: asyncio.Semaphore


def _connect(base_url: str | None, api_key: str | None, slots: int, timeout: float, retries: int) -> _Connection:
    try:
        import openai
    except ModuleNotFoundError as error:
        raise UsageError(f"Requests to a server need openai. Install it: {install_command('openai')}") from error
    try:
        client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key, timeout=timeout, max_retries=retries)
    except openai.OpenAIError as error:
        raise UsageError(f"No client for {base_url or 'the default server'}: {error}") from error
    return _Connection(client, asyncio.Semaphore(slots))


def _dropped() -> type[Exception]:
    """What openai lets through, before version 3, where a connection breaks off in the middle of a stream."""
    import openai

    error: type[Exception] = getattr(sys.modules.get("httpx"), "TransportError", openai.APIConnectionError)
    return error


def _with_parameters(request: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The request with ``parameters`` on top, as arguments of the official client, which refuses names it lacks."""
    kept = {name: value for name, value in request.items() if name not in parameters}
    given = {name: value for name, value in parameters.items() if value is not None}
    if "max_completion_tokens" in request and "max_completion_tokens" in given:  # a request may ask for less
        given["max_completion_tokens"] = min(request["max_completion_tokens"], given["max_completion_tokens"])
    if given:
        kept["extra_body"] = {**kept.get("extra_body", {}), **given}
    return kept


def _is_too_long(error: Any) -> bool:
    """Whether a prompt did not fit: by OpenAI's code, llama.cpp's type, or the words of vLLM and others."""
    body = error.body if isinstance(error.body, dict) else {}
    if {str(body.get("code")), str(body.get("type"))} & TOO_LONG:
        return True
    return error.status_code in (400, 413) and _TOO_LONG_WORDS.search(str(body.get("message") or "")) is not None


def _reason(error: Any) -> str:
    """What is known of the reason: identifiers only, as the server's sentences may quote the request."""
    body = error.body if isinstance(error.body, dict) else {}
    fields = {name: str(body.get(name) or "") for name in ("code", "type", "param", "status", "error_type")}
    # FastAPI's form, of Mistral and others: the first thing that is wrong, and where it is in the body.
    detail = body.get("detail")
    if isinstance(detail, list) and detail and isinstance(detail[0], dict) and isinstance(detail[0].get("loc"), list):
        place = ".".join(map(str, detail[0]["loc"])).removeprefix("body.")
        fields |= {"type": str(detail[0].get("type") or ""), "param": place}
    known = {name: value for name, value in fields.items() if _IDENTIFIER.fullmatch(value)}
    reason = f" ({', '.join(f'{name} {value}' for name, value in known.items())})" if known else ""
    if error.status_code in KEY_REFUSED:
        return f"{reason}: check the API key (`api_key` or $OPENAI_API_KEY)"
    if known.get("param", "").isidentifier():
        return f"{reason}: to change or leave out a parameter, use ServerClient(parameters=...)"
    return reason
