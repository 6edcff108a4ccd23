"""Many requests at once to an OpenAI-compatible server: vLLM, llama.cpp, a hosted model, or ``waltz serve``."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal, TypeVar

from waltz_env.errors import AgentFailure, UsageError, WaltzError
from waltz_env.loop_thread import LoopThread

T = TypeVar("T")
Endpoint = Literal["chat/completions", "completions"]

RETRIES = 4
BUSY = frozenset({429, 503})


class ServerError(WaltzError, RuntimeError):
    """A server gave no answer to one request, after all retries.

    Args:
        message: what it did. Never what was asked or answered.
        kind: as of ``AgentError``.
    """

    def __init__(self, message: str, *, kind: AgentFailure) -> None:
        super().__init__(message)
        self.kind = kind


class ServerClient:
    """The official client, with bounded concurrency and a deadline for each batch.

    It retries what may pass (no connection, 408, 409, 429, 5xx) with exponential back-off and heeds ``Retry-After``.
    Connections live on a loop of the client's own, so ``run`` works anywhere, notebooks included.

    Args:
        base_url: such as ``http://127.0.0.1:8000/v1``; None: ``$OPENAI_BASE_URL``, or OpenAI's.
        api_key: None: ``$OPENAI_API_KEY``. Local servers take any.
        max_concurrent: requests under way at once, over all batches.
        timeout: seconds that one attempt may wait for the next byte.
        deadline: seconds for a whole batch, retries and waiting for a turn included.
        retries: of one request, at most.

    Raises:
        UsageError: openai is not installed, no key is set, or a limit is not above zero.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        max_concurrent: int = 32,
        timeout: float = 60.0,
        deadline: float = 600.0,
        retries: int = RETRIES,
    ) -> None:
        try:
            import openai
        except ModuleNotFoundError as error:
            raise UsageError("A server is asked through openai. Install it: pip install 'waltz-env[openai]'") from error
        if min(max_concurrent, timeout, deadline) <= 0:
            raise UsageError(
                f"max_concurrent, timeout and deadline must be above 0; got {max_concurrent}, {timeout} and {deadline}."
            )
        try:
            self._client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key, timeout=timeout, max_retries=retries)
        except openai.OpenAIError as error:
            raise UsageError(f"No client for {base_url or 'the default server'}: {error}") from error
        self.deadline = deadline
        self._turns = asyncio.Semaphore(max_concurrent)
        self._loop = LoopThread()

    @property
    def base_url(self) -> str:
        return str(self._client.base_url)

    async def ask(self, endpoint: Endpoint, requests: Sequence[Mapping[str, Any]]) -> list[str | ServerError]:
        """The body of each answer, or why there is none, in order. To be awaited on the client's own loop."""
        by = asyncio.get_running_loop().time() + self.deadline
        return await asyncio.gather(*(self._ask(endpoint, request, by) for request in requests))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine on the client's loop."""
        return self._loop.run(coroutine)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts a coroutine on the client's loop. Cancelling the future drops its requests."""
        return self._loop.submit(coroutine)

    def close(self) -> None:
        """Closes the connections. Nothing can be asked after that."""
        self._loop.run(self._client.close())
        self._loop.close()

    async def _ask(self, endpoint: Endpoint, request: Mapping[str, Any], by: float) -> str | ServerError:
        import openai

        resource = self._client.chat.completions if endpoint == "chat/completions" else self._client.completions
        create: Any = resource.with_raw_response.create

        def failed(what: str, kind: AgentFailure) -> ServerError:
            return ServerError(f"The server of {request['model']!r} at {self.base_url} {what}.", kind=kind)

        try:
            async with asyncio.timeout_at(by), self._turns:
                return (await create(**request)).text
        except TimeoutError:
            return failed(f"gave no answer within the deadline of {self.deadline:g} s", "timeout")
        except openai.APITimeoutError:
            return failed("gave no answer in time, however often it was asked", "timeout")
        except openai.APIStatusError as error:
            return failed(
                f"answered with status {error.status_code}", "unavailable" if error.status_code in BUSY else "error"
            )
        except openai.APIConnectionError:
            return failed("could not be reached or dropped the connection", "unavailable")
        except openai.OpenAIError:
            return failed("answered with something that cannot be read", "error")
