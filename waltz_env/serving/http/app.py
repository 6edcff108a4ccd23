"""The pair behind an OpenAI-compatible chat interface."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from waltz_env.errors import AgentError, UsageError
from waltz_env.serving.duet import Duet
from waltz_env.serving.http.answers import chat_answer, events
from waltz_env.serving.http.api_errors import Problem, documented, of_agent
from waltz_env.serving.http.gate import CHAT, Gate
from waltz_env.serving.http.limits import Limits
from waltz_env.serving.http.metrics import Metrics
from waltz_env.serving.http.recorder import CLIENT_LEFT, Recorder
from waltz_env.serving.http.schemas import ChatAnswer, ChatRequest, Health, Model, ModelList
from waltz_env.types import Message

T = TypeVar("T")
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


class Refused(Exception):
    """A request that gets an error for an answer."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


def create_app(
    duet: Duet,
    *,
    model: str = "waltz",
    api_keys: Sequence[str] = (),
    limits: Limits | None = None,
    log_text: bool = False,
) -> FastAPI:
    """An ASGI application that answers chats with ``duet`` and closes it when the server stops.

    Args:
        duet: the pair.
        model: the name that clients ask for.
        api_keys: any of them opens what is under ``/v1``; none: it is open.
        limits: what is taken on.
        log_text: put messages and answers into the log, which otherwise holds no text.
    """
    metrics = Metrics(duet)
    created = int(time.time())
    limits = limits or Limits()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        duet.close()

    app = FastAPI(title="waltz_env", lifespan=lifespan, responses=documented(500))
    app.add_middleware(Gate, limits=limits, metrics=metrics, api_keys=api_keys)
    app.add_middleware(Recorder, metrics=metrics)
    _answer_errors(app)

    @app.post(
        CHAT,
        response_model=ChatAnswer,
        responses=documented(400, 401, 404, 408, 413, 429, 502, 503, 504) | STREAM,
    )
    async def chat_completions(chat: ChatRequest, request: Request) -> Any:
        """Answers a chat; with ``stream``, as server-sent events once the answer is final."""
        messages = [message.message() for message in chat.messages]
        _check(chat, messages, model, limits)
        about = request.state.about
        try:
            reply = await _unless_left(request, duet.arespond(messages))
        except UsageError as error:
            raise Refused(Problem(400, str(error), "invalid_messages", "messages")) from error
        except AgentError as error:
            about |= {"failure": error.kind, "reason": str(error)}
            raise Refused(of_agent(error)) from error
        if reply is None:
            return Response(status_code=CLIENT_LEFT)
        metrics.replied(reply)
        answer = chat_answer(reply, model=model, mode=duet.mode, details=True)
        about |= {"stream": bool(chat.stream), **(answer.waltz.model_dump() if answer.waltz else {})}
        if reply.failure:
            about["reason"] = reply.failure.reason
        if log_text:
            about |= {"messages": messages, "answer": reply.text}
        if not chat.waltz.details:
            answer = answer.model_copy(update={"waltz": None})
        if not chat.stream:
            return JSONResponse(answer.model_dump())
        include_usage = bool(chat.stream_options and chat.stream_options.include_usage)
        return StreamingResponse(events(answer, include_usage=include_usage), media_type="text/event-stream")

    @app.get("/v1/models", responses=documented(401))
    async def models() -> ModelList:
        """The one model: the pair."""
        return ModelList(data=[Model(id=model, created=created)])

    @app.get("/healthz")
    async def health() -> Health:
        """Whether the process takes requests. It asks no agent: their state is in the metrics."""
        return Health()

    @app.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """Counters and latencies for Prometheus."""
        return Response(metrics.page(), media_type=PROMETHEUS)

    return app


def _check(chat: ChatRequest, messages: Sequence[Message], model: str, limits: Limits) -> None:
    if chat.model != model:
        raise Refused(Problem(404, f"There is no such model. This server has {model!r}.", "model_not_found", "model"))
    size = sum(len(message["content"]) for message in messages)
    if size > limits.chat_chars:
        message = f"The messages have {size} characters; at most {limits.chat_chars} are taken."
        raise Refused(Problem(413, message, "messages_too_long", "messages"))


async def _unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work gives; None, and the work dropped, if the client hangs up before."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return error.problem.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"][1:])
        return Problem(400, f"{place or 'body'}: {first['msg']}", "invalid_request", place or None).response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "method_not_allowed"}
        code = codes.get(error.status_code, "invalid_request")
        return Problem(error.status_code, str(error.detail), code, None, error.headers).response()

    @app.exception_handler(Exception)
    async def unexpected(_: Request, __: Exception) -> Response:
        return Problem(500, "The server failed.", "internal_error").response()
