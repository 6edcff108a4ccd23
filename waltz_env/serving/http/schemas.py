"""Requests and answers of the chat server: the part of OpenAI's interface that it speaks, and one extension field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from waltz_env.types import Message

NOTHING = Field(default=None, max_length=0)


class TextPart(BaseModel):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def message(self) -> Message:
        """The message with its text in one piece."""
        parts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content]
        return {"role": self.role, "content": "".join(parts)}


class StreamOptions(BaseModel):
    """What a stream carries beside the text."""

    include_usage: bool | None = None


class WaltzOptions(BaseModel):
    """Extension: what to tell about the feedback."""

    model_config = ConfigDict(extra="forbid")

    details: bool = Field(default=False, description="Add the feedback agent's verdict and the latencies.")


class TextFormat(BaseModel):
    """The only response format there is."""

    type: Literal["text"]


class ChatRequest(BaseModel):
    """A chat to answer.

    How the pair samples is the server's affair: ``temperature``, ``max_tokens``, ``seed`` and whatever else is not
    named here may be sent and changes nothing. What would change the form of the answer is refused.
    """

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None
    stop: Annotated[list[str] | None, NOTHING]
    tools: Annotated[list[dict[str, Any]] | None, NOTHING]
    functions: Annotated[list[dict[str, Any]] | None, NOTHING]
    waltz: WaltzOptions = Field(default_factory=WaltzOptions)


class Sparse(BaseModel):
    """Sends only the fields that hold something."""

    @model_serializer(mode="wrap")
    def _without_nulls(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


class FeedbackSummary(BaseModel):
    """Extension: what became of the draft. Never the draft itself, or what the feedback agent wrote about it.

    ``unsafe`` and ``overrefuse`` are the feedback agent's labels of the draft, null where there are none. ``failure``
    names the agent and the kind where the game could not be played to its end. Latencies are in seconds.
    """

    mode: str
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


class Usage(BaseModel):
    """Tokens of all turns of the game: what the answer cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(Sparse):
    """A chat completion. There is no ``usage`` where the agents do not tell their tokens."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[Choice]
    usage: Usage | None = None
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
    usage: Usage | None = None
    waltz: FeedbackSummary | None = None


class Model(BaseModel):
    """What can be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["waltz_env"] = "waltz_env"


class ModelList(BaseModel):
    """All that can be asked for."""

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
