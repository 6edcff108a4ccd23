"""The pair behind an OpenAI-compatible chat interface."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from waltz_env.errors import AgentError, UsageError
from waltz_env.sampling_options import SamplingOptions
from waltz_env.serving.duet import Duet
from waltz_env.serving.http.answers import beginning, chat_answer, ending, head_of, pieces, review, summary
from waltz_env.serving.http.api_errors import RETRY_AFTER, Problem, by_agent, documented
from waltz_env.serving.http.chat_request import NO_JSON, ChatRequest, told
from waltz_env.serving.http.gate import CHAT, Gate
from waltz_env.serving.http.limits import Limits
from waltz_env.serving.http.metrics import Metrics
from waltz_env.serving.http.recorder import CLIENT_LEFT, KNOWN_ELSEWHERE, Recorder
from waltz_env.serving.http.schemas import ChatAnswer, Health, Model, ModelList
from waltz_env.serving.reply import Reply
from waltz_env.types import Message

T = TypeVar("T")
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
STOPPING = Problem(503, "The server is stopping; try again.", "stopping", None, RETRY_AFTER)
EVENTS = "text/event-stream"
REVIEW, IGNORED = "x-waltz-review", "x-waltz-ignored"


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
    cors_origins: Sequence[str] = (),
    log_text: bool = False,
) -> FastAPI:
    """Return an ASGI application that answers chats with ``duet``, and closes it when the server stops.

    Args:
        duet: the pair.
        model: the model name that clients ask for.
        api_keys: keys of which any one opens the paths under ``/v1``; if there are none, they are open.
        limits: limits on requests.
        cors_origins: origins of web pages that may call the server from a browser; ``"*"`` for all.
        log_text: put messages and answers into the log, which otherwise holds no text.
    """
    metrics = Metrics(duet)
    this_model = Model(id=model, created=int(time.time()))
    limits = limits or Limits()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        duet.close(wait=False)

    app = FastAPI(title="waltz_env", lifespan=lifespan, responses=documented(500))
    app.add_middleware(Gate, limits=limits, metrics=metrics, api_keys=api_keys)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["retry-after", "x-request-id", REVIEW, IGNORED],
        )
    app.add_middleware(Recorder, metrics=metrics)
    _answer_errors(app)

    @app.post(
        CHAT,
        response_model=ChatAnswer,
        responses=documented(400, 401, 404, 408, 413, 415, 429, 502, 503, 504) | STREAM,
    )
    async def chat_completions(chat: ChatRequest, request: Request) -> Any:
        """Answer a chat; with ``stream``, as server-sent events as soon as nothing can be taken back."""
        messages, options = chat.chat(), chat.options()
        _check(chat.model, messages, model, limits)
        head, about = head_of(model), request.state.about
        include_usage = bool(chat.stream_options and chat.stream_options.include_usage)
        texts: asyncio.Queue[str | None] = asyncio.Queue()  # the answer so far, ever longer; None: no more
        if chat.stream:
            options = replace(options, on_text=texts.put_nowait)
        working = asyncio.ensure_future(duet.arespond(messages, options=options))
        working.add_done_callback(lambda _: texts.put_nowait(None))

        def recorded() -> tuple[Reply, ChatAnswer]:
            reply = working.result()
            metrics.replied(reply)
            about.update(stream=bool(chat.stream), review=review(reply), **summary(reply, duet.mode).model_dump())
            if reply.failure:
                about["reason"] = reply.failure.reason
            if log_text:
                about.update(messages=messages, answer=reply.text)
            return reply, chat_answer(reply, head, mode=duet.mode, details=chat.waltz.details)

        async def events(text: str | None) -> AsyncIterator[str]:
            """The stream, from the first text that may be shown; None if the reply is there first."""
            sent = 0
            try:
                yield beginning(head)
                while text is not None:
                    for event in pieces(head, text[sent:]):
                        yield event
                    sent = len(text)
                    text = await _unless_left(request, texts.get())
                if not working.done():
                    about["error"] = "client_left"
                    return
                reply, answer = recorded()
                for event in pieces(head, reply.text[sent:]):
                    yield event
                for event in ending(head, answer, include_usage=include_usage):
                    yield event
            except AgentError as error:
                about.update(failure=error.kind, reason=str(error))
                yield by_agent(error).event(request.scope)
            except asyncio.CancelledError:
                working.cancel()
                yield STOPPING.event(request.scope)

        async def let_go() -> None:
            working.cancel()

        headers: dict[str, str] = {}
        if ignored := () if duet.takes_options else _sampling(options):
            headers[IGNORED] = about["ignored"] = ", ".join(ignored)
        try:
            first = await _unless_left(request, texts.get())
            if first is not None:
                headers[REVIEW] = "reviewed" if duet.rules.max_rounds else "unreviewed"
                left = BackgroundTask(let_go)  # also after a client that leaves before the stream has begun
                return StreamingResponse(events(first), media_type=EVENTS, headers=headers, background=left)
            if not working.done():
                working.cancel()
                return Response(status_code=CLIENT_LEFT)
            reply, answer = recorded()
        except UsageError as error:
            raise Refused(Problem(400, str(error), "invalid_messages", "messages")) from error
        except AgentError as error:
            about.update(failure=error.kind, reason=str(error))
            raise Refused(by_agent(error)) from error
        except asyncio.CancelledError:  # the time in which requests may finish is over
            working.cancel()
            raise Refused(STOPPING) from None
        headers[REVIEW] = review(reply)
        if chat.stream:
            whole = [beginning(head), *pieces(head, reply.text)]
            whole += ending(head, answer, include_usage=include_usage)
            return StreamingResponse(iter(whole), media_type=EVENTS, headers=headers)
        return JSONResponse(answer.model_dump(), headers=headers)

    @app.get("/v1/models", responses=documented(401))
    async def models() -> ModelList:
        """List the one model: the pair."""
        return ModelList(data=[this_model])

    @app.get("/v1/models/{name:path}", responses=documented(401, 404))
    async def retrieve_model(name: str) -> Model:
        """Describe the one model."""
        if name != model:
            raise Refused(_no_model(model))
        return this_model

    @app.get("/healthz")
    async def health() -> Health:
        """Tell whether the process takes requests. No agent is asked: their state is in the metrics."""
        return Health()

    @app.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """Return counters and latencies for Prometheus."""
        return Response(metrics.page(), media_type=PROMETHEUS)

    return app


def _check(asked_model: str, messages: Sequence[Message], model: str, limits: Limits) -> None:
    if asked_model != model:
        raise Refused(_no_model(model))
    size = sum(len(message["content"]) for message in messages)
    if size > limits.chat_chars:
        message = f"The messages have {size} characters; at most {limits.chat_chars} are allowed."
        raise Refused(Problem(413, message, "messages_too_long", "messages"))


def _no_model(model: str) -> Problem:
    return Problem(404, f"There is no such model. This server has {model!r}.", "model_not_found", "model")


def _sampling(options: SamplingOptions) -> list[str]:
    """The options that an agent without sampling ignores."""
    return [name for name in ("temperature", "top_p", "seed") if getattr(options, name) is not None]


async def _unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of the work; None, and the work dropped, if the client hangs up first."""
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
    async def refused(request: Request, error: Refused) -> Response:
        return error.problem.response(request.scope)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        message, param = told(error.errors())
        return Problem(400, message, "invalid_request", param).response(request.scope)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return _http_problem(request, error).response(request.scope)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, _: Exception) -> Response:
        return Problem(500, "The server failed.", "internal_error").response(request.scope)


def _http_problem(request: Request, error: HTTPException) -> Problem:
    """Errors of the framework: no such path, no such method, or a body that cannot be parsed."""
    path = request.url.path if request.url.path in KNOWN_ELSEWHERE else "that path"
    if error.status_code == 404:
        return Problem(404, f"This server does not have {path}. Chats go to POST {CHAT}.", "not_found")
    if error.status_code == 405:
        return Problem(405, "This path does not have that method.", "method_not_allowed", None, error.headers)
    return Problem(400, NO_JSON, "invalid_request", None, error.headers)
