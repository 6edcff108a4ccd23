"""Answers of the chat server, in OpenAI's form, and one extension field."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer


class Sparse(BaseModel):
    """Sends only the fields that hold something."""

    @model_serializer(mode="wrap")
    def _without_nulls(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


class FeedbackSummary(BaseModel):
    """Extension: what happened to the draft. Never the draft itself, or what the feedback agent wrote about it.

    ``reviewed`` is false if no usable feedback stands behind the text. ``unsafe`` and ``overrefuse`` are the feedback
    agent's labels of the draft, null if there are none. ``failure`` names the agent and the kind if the game could not
    be played to its end. Latencies are in seconds.
    """

    mode: str
    reviewed: bool
    triggered: bool
    unsafe: bool | None
    overrefuse: bool | None
    revised: bool
    refused: bool
    failure: str | None
    latency: dict[str, float]


class AnswerMessage(BaseModel):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


FinishReason = Literal["stop", "length", "content_filter"]


class Choice(BaseModel):
    """The only choice."""

    index: Literal[0] = 0
    message: AnswerMessage
    finish_reason: FinishReason
    logprobs: None = None


class HiddenTokens(BaseModel):
    """Completion tokens that are not in the answer: drafts that were revised, and critiques."""

    reasoning_tokens: int


class UsageReport(BaseModel):
    """Tokens of all turns of the game: what the answer cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: HiddenTokens


class ChatAnswer(Sparse):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[Choice]
    usage: UsageReport
    waltz: FeedbackSummary | None = None


class Delta(Sparse):
    """A piece of the assistant's message."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """The only choice of a chunk."""

    index: Literal[0] = 0
    delta: Delta
    finish_reason: FinishReason | None = None


class Chunk(Sparse):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: UsageReport | None = None
    waltz: FeedbackSummary | None = None


class Model(BaseModel):
    """The model that clients ask for."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["waltz_env"] = "waltz_env"


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorDetail(BaseModel):
    """Why there is no answer."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """An error, in OpenAI's form."""

    error: ErrorDetail


class Health(BaseModel):
    """The process runs and takes requests."""

    status: Literal["ok"] = "ok"
