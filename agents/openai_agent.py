"""An agent on any OpenAI-compatible chat server: vLLM, llama.cpp, a hosted model, or ``waltz serve`` itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError, ValidatorFunctionWrapHandler, field_validator

from waltz_env.agents.templates import Template
from waltz_env.chat_template import normalized
from waltz_env.errors import AgentError, UnreadablePromptError, UsageError
from waltz_env.sampling_options import SamplingOptions
from waltz_env.server_client import ServerClient, ServerError
from waltz_env.types import Completion, Finish, Observation, Usage
from waltz_env.untrusted_text import encodable

FULL_DISTRIBUTION = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""vLLM takes these from the model's ``generation_config.json`` unless a request sets them."""


class OpenAIAgent:
    """An agent that asks a chat server for its completions, many at a time.

    ``act`` works anywhere, also in notebooks; ``aact`` works in any event loop. A completion with
    ``SamplingOptions.on_text`` is asked for as a stream, with its usage. For servers that refuse ``stream`` or
    ``stream_options``, leave it out: ``ServerClient(parameters={"stream": None})``, ``{"stream_options": None}``.

    Learners need token ids and log-probabilities and refuse completions without them; completions have them only with
    ``token_ids=True``. Servers report the log-probabilities of temperature 1 and of the unconstrained distribution, so
    ``token_ids`` excludes any other temperature, a schema, and ``ServerClient.parameters``.

    Args:
        model: the model's name on the server.
        template: turns an observation into chat messages.
        server: connection to the server; None: ``ServerClient()``.
        temperature: sampling temperature.
        max_tokens: maximum number of tokens per completion.
        seed: sampling seed; request number n is sent ``seed + n``. None: the server chooses.
        json_schema: JSON schema that the server should hold completions to (``response_format``), for the feedback
            role.
        token_ids: ask for the sampled token ids, as vLLM returns them (``return_token_ids``, ``logprobs``).

    Raises:
        UsageError: ``token_ids`` with a setting that it excludes, or ``max_tokens`` below 1.
    """

    def __init__(
        self,
        model: str,
        template: Template,
        *,
        server: ServerClient | None = None,
        temperature: float = 1.0,
        max_tokens: int = 512,
        seed: int | None = None,
        json_schema: Mapping[str, Any] | None = None,
        token_ids: bool = False,
    ) -> None:
        server = server or ServerClient()
        if token_ids and (temperature != 1.0 or json_schema is not None or server.parameters):
            raise UsageError(
                "token_ids=True needs temperature=1.0, no json_schema and no parameters of the ServerClient: servers "
                "report log-probabilities of the plain distribution at temperature 1, and learning would be wrong if "
                "tokens were sampled from any other."
            )
        if max_tokens <= 0:
            raise UsageError(f"max_tokens must be above 0; got {max_tokens}.")
        self.model = model
        self.template = template
        self.seed = seed
        self._sent = 0
        self._token_ids = token_ids
        self._settings = _settings(temperature, max_tokens, json_schema, token_ids)
        self.server = server

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        """Return one completion per observation, in order.

        Raises:
            AgentError: some observations got no completion before the deadline, retries included. The error carries
                the completions that did arrive (``partial``). It is an ``UnreadablePromptError`` if they are too long
                for the model.
        """
        return self.server.run(self._act(observations))

    async def aact(self, observations: Sequence[Observation]) -> list[Completion]:
        """Do the same as ``act`` without blocking. Cancelling it drops the requests."""
        return await asyncio.wrap_future(self.server.submit(self._act(observations)))

    async def aact_with(
        self,
        observations: Sequence[Observation],
        options: Sequence[SamplingOptions],
        *,
        started: Callable[[], None] = lambda: None,
    ) -> list[Completion]:
        """Do the same as ``aact``, each completion sampled by its own options.

        Args:
            observations: what is asked.
            options: how each completion is sampled.
            started: called whenever a request has got one of the client's slots.
        """
        return await asyncio.wrap_future(self.server.submit(self._act(observations, options, started)))

    def detach(self) -> OpenAIAgent:
        """Return the agent itself: no update in this process changes the server's weights."""
        return self

    def close(self) -> None:
        """Close the connections of ``server``. The agent cannot act after that."""
        self.server.close()

    async def _act(
        self,
        observations: Sequence[Observation],
        options: Sequence[SamplingOptions] = (),
        started: Callable[[], None] = lambda: None,
    ) -> list[Completion]:
        options = options or [SamplingOptions()] * len(observations)
        first = self._sent
        self._sent += len(observations)
        requests = [
            self._request(observation, number, wanted)
            for number, (observation, wanted) in enumerate(zip(observations, options, strict=True), first)
        ]
        streams = [self._stream(wanted) for wanted in options]
        for request, stream in zip(requests, streams, strict=True):
            if stream is not None:
                request["stream_options"] = {"include_usage": True}
        answers = await self.server.ask(
            "chat/completions",
            requests,
            started=started,
            on_chunk=[stream.take if stream else None for stream in streams],
        )
        outcomes = [
            self._outcome(answer or (stream.body() if stream else answer), wanted)
            for answer, stream, wanted in zip(answers, streams, options, strict=True)
        ]
        failures = [outcome for outcome in outcomes if isinstance(outcome, ServerError)]
        if failures:
            _raise_together(outcomes, failures)
        return [outcome for outcome in outcomes if isinstance(outcome, Completion)]

    def _stream(self, options: SamplingOptions) -> _Stream | None:
        if options.on_text is None or self._token_ids or "stream" in self.server.parameters:
            return None
        return _Stream(options.on_text)

    def _request(self, observation: Observation, number: int, options: SamplingOptions) -> dict[str, Any]:
        messages = [
            {**message, "content": encodable(message["content"])} for message in normalized(self.template(observation))
        ]
        request = {"model": self.model, "messages": messages, **self._settings}
        if self.seed is not None:
            request["seed"] = self.seed + number
        wanted = {"temperature": options.temperature, "top_p": options.top_p, "seed": options.seed}
        request |= {name: value for name, value in wanted.items() if value is not None}
        if options.max_tokens is not None:
            request["max_tokens"] = min(options.max_tokens, request["max_tokens"])
            if "max_completion_tokens" in self.server.parameters:  # the newer name of the limit
                request["max_completion_tokens"] = options.max_tokens
        if options.stop:
            request["stop"] = list(options.stop)
        return request

    def _outcome(self, answer: str | ServerError, options: SamplingOptions) -> Completion | ServerError:
        if isinstance(answer, ServerError):
            return answer
        plain = options.temperature in (None, 1.0) and options.top_p in (None, 1.0)
        try:
            return _read(answer, self._token_ids and plain)
        except ValidationError:
            return ServerError(
                f"The server of {self.model!r} at {self.server.base_url} answered with something that is not a "
                "chat completion.",
                kind="error",
            )


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Token(BaseModel):
    logprob: float


class _Logprobs(BaseModel):
    content: tuple[_Token, ...] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class _Answer(BaseModel):
    """The parts of a chat completion that are read; ``prompt_token_ids`` and ``token_ids`` are extensions of vLLM."""

    choices: tuple[_Choice]
    prompt_token_ids: tuple[int, ...] | None = None
    usage: _Usage | None = None

    @field_validator("usage", mode="wrap")
    @classmethod
    def _drop_unreadable(cls, value: Any, read: ValidatorFunctionWrapHandler) -> _Usage | None:
        try:
            return read(value)
        except ValidationError:
            return None  # a text is worth more than its count


class _Delta(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _ChunkChoice(BaseModel):
    delta: _Delta
    finish_reason: str | None = None


class _Chunk(BaseModel):
    """The parts of a stream's chunk that are read; the last one may have the usage and no choice."""

    choices: tuple[_ChunkChoice, ...] = ()
    usage: Any = None


class _Stream:
    """A chat completion that arrives in chunks."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._text = self._refusal = ""
        self._finish: str | None = None
        self._usage: Any = None
        self._readable = True

    def take(self, chunk: str) -> None:
        """Takes a chunk as JSON."""
        try:
            read = _Chunk.model_validate_json(chunk)
        except ValidationError:
            self._readable = False
            return
        self._usage = read.usage or self._usage
        for choice in read.choices[:1]:
            self._finish = choice.finish_reason or self._finish
            self._refusal += choice.delta.refusal or ""
            if choice.delta.content and self._readable:
                self._text += choice.delta.content
                self._on_text(self._text)

    def body(self) -> str:
        """The same completion as a server would send it whole; empty if it has no end or some of it was unreadable."""
        if self._finish is None or not self._readable:
            return ""
        message = {"content": self._text or None, "refusal": self._refusal or None}
        return json.dumps({"choices": [{"message": message, "finish_reason": self._finish}], "usage": self._usage})


def _read(body: str, token_ids: bool) -> Completion:
    """Return the completion in a server's answer; raise ``ValidationError`` if there is none."""
    answer = _Answer.model_validate_json(body)
    (choice,) = answer.choices
    finish: Finish = "length" if choice.finish_reason == "length" else "stop"
    text = choice.message.content if choice.message.content is not None else choice.message.refusal or ""
    logprobs = tuple(token.logprob for token in (choice.logprobs and choice.logprobs.content) or ())
    ids = choice.token_ids or ()
    counted = answer.usage
    usage = None if counted is None else Usage(counted.prompt_tokens, counted.completion_tokens)
    if not token_ids or answer.prompt_token_ids is None or not ids or len(ids) != len(logprobs):
        return Completion(text, finish, usage=usage)
    return Completion(text, finish, answer.prompt_token_ids, ids, logprobs, usage=usage)


def _settings(
    temperature: float, max_tokens: int, json_schema: Mapping[str, Any] | None, token_ids: bool
) -> dict[str, Any]:
    settings: dict[str, Any] = {"temperature": temperature, "top_p": 1.0, "max_tokens": max_tokens}
    if json_schema is not None:
        schema = {"name": "answer", "strict": True, "schema": dict(json_schema)}
        settings["response_format"] = {"type": "json_schema", "json_schema": schema}
    if token_ids:
        settings |= {"logprobs": True, "extra_body": {"return_token_ids": True, **FULL_DISTRIBUTION}}
    return settings


def _raise_together(outcomes: Sequence[Completion | ServerError], failures: Sequence[ServerError]) -> NoReturn:
    # Prompts that are too long are named if nothing else failed: another try could not mend them.
    first = next((failure for failure in failures if failure.kind != "too_long"), failures[0])
    partial = [outcome if isinstance(outcome, Completion) else None for outcome in outcomes]
    message = str(first)
    if len(outcomes) > 1:
        message = f"{len(failures)} of {len(outcomes)} observations have no completion. The first: {first}"
    if first.kind == "too_long":
        rows = [row for row, completion in enumerate(partial) if completion is None]
        raise UnreadablePromptError(message, kind=first.kind, rows=rows, partial=partial) from first
    raise AgentError(message, kind=first.kind, partial=partial if len(outcomes) > 1 else ()) from first
