"""A request for a chat completion: what its fields mean, and what a client is told that asks for anything else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from waltz_env.sampling_options import SamplingOptions
from waltz_env.types import Message

Json = Mapping[str, Any]

MAX_STOPS = 4
NO_JSON = "The body is not valid JSON."
_NAME = re.compile(r"\w{1,64}", re.ASCII)


class Unsupported(NamedTuple):
    """A parameter that the server cannot honor.

    Attributes:
        what: the subject of the sentence that a client is told.
        neutral: values that change nothing, and are accepted.
    """

    what: str
    neutral: tuple[Any, ...] = ()


UNSUPPORTED: Mapping[str, Unsupported] = {
    "audio": Unsupported("Audio output is"),
    "frequency_penalty": Unsupported("Penalties are", (0,)),
    "function_call": Unsupported("Function calls are", ("none", "auto")),
    "functions": Unsupported("Function calls are", ([],)),
    "logit_bias": Unsupported("Logit biases are", ({},)),
    "logprobs": Unsupported("Log-probabilities are", (False,)),
    "min_p": Unsupported("Sampling with min_p is", (0,)),
    "modalities": Unsupported("Output other than text is", (["text"],)),
    "n": Unsupported("More than one choice per request is", (1,)),
    "prediction": Unsupported("Predicted output is"),
    "presence_penalty": Unsupported("Penalties are", (0,)),
    "reasoning_effort": Unsupported("A reasoning effort is"),
    "repetition_penalty": Unsupported("Penalties are", (1,)),
    "response_format": Unsupported("Structured output is", ({"type": "text"},)),
    "store": Unsupported("Storing chats is", (False,)),
    "tool_choice": Unsupported("Tool calls are", ("none", "auto")),
    "tools": Unsupported("Tool calls are", ([],)),
    "top_k": Unsupported("Sampling with top_k is", (-1, 0)),
    "top_logprobs": Unsupported("Log-probabilities are", (0,)),
    "verbosity": Unsupported("A verbosity is"),
    "web_search_options": Unsupported("Web search is"),
}
"""Parameters of OpenAI and vLLM that would change the answer if they were honored."""

NO_EFFECT = frozenset(
    "metadata parallel_tool_calls prompt_cache_key prompt_cache_retention safety_identifier service_tier user".split()
)
"""Parameters that tell a provider about the request and do not change the answer."""

PARTS: Mapping[str, str] = {
    "file": "Files are",
    "image_url": "Images are",
    "input_audio": "Audio is",
    "input_image": "Images are",
    "video_url": "Videos are",
}


class TextPart(BaseModel):
    """A piece of a message's text."""

    type: Literal["text", "refusal"]
    text: str = ""
    refusal: str = ""


def _wrong(sentence: str, param: str = "") -> PydanticCustomError:
    """An error that is told to the client as it stands. ``param`` is added to the path of the field."""
    return PydanticCustomError("wrong", sentence, {"param": param})


def _content(value: Any) -> Any:
    """Name the parts that are not text."""
    if not isinstance(value, str | list):
        raise _wrong("The content of a message must be a string or a list of text parts.")
    for index, part in enumerate(value if isinstance(value, list) else ()):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind in PARTS:
            raise _wrong(f"{PARTS[kind]} not supported by this server, only text.", f"[{index}]")
        if kind not in ("text", "refusal") or not isinstance(part.get(kind), str):
            raise _wrong('A part of a message must be {"type": "text", "text": "..."}.', f"[{index}]")
    if value == []:
        raise _wrong("The content of a message must have at least one part.")
    return value


class ChatMessage(BaseModel):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str | list[TextPart], BeforeValidator(_content)]

    @model_validator(mode="before")
    @classmethod
    def _without_tools(cls, value: Any) -> Any:
        """Refuse what belongs to tools. An assistant's null content, which clients replay, means the empty text."""
        if not isinstance(value, dict):
            raise _wrong("A message must be an object with a role and a content.")
        if value.get("role") in ("tool", "function") or value.get("tool_calls") or value.get("function_call"):
            raise _wrong("Tool calls are not supported by this server.")
        if value.get("role") == "assistant" and value.get("content") is None:
            return {**value, "content": value.get("refusal") or ""}
        return value

    def message(self) -> Message:
        """The message with its text in one piece."""
        parts = [self.content] if isinstance(self.content, str) else [part.text + part.refusal for part in self.content]
        return {"role": self.role, "content": "".join(parts)}


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    include_usage: bool | None = Field(default=None, strict=True)


class WaltzOptions(BaseModel):
    """Extension: what to tell about the feedback."""

    model_config = ConfigDict(extra="forbid")

    details: bool = Field(default=False, strict=True, description="Add the summary of the feedback and the latencies.")


def _stop(value: Any) -> Any:
    """One string, or several, as a list."""
    stops = [value] if isinstance(value, str) else value
    if stops is None:
        return []
    if not isinstance(stops, list) or not all(isinstance(string, str) for string in stops):
        raise _wrong("stop must be a string or a list of strings.")
    if len(stops) > MAX_STOPS:
        raise _wrong(f"stop takes at most {MAX_STOPS} strings.")
    if not all(stops):
        raise _wrong("A stop string must not be empty.")
    return stops


Tokens = Annotated[int | None, Field(ge=1, strict=True)]


class ChatRequest(BaseModel):
    """A chat to answer.

    ``temperature``, ``top_p``, ``seed``, ``max_tokens`` and ``stop`` apply to the text that the client receives: the
    draft and its revision. How the feedback agent samples is up to the operator. A parameter that would change the
    answer and is not listed here is refused.
    """

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: Annotated[bool | None, Field(strict=True)] = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float | None, Field(ge=0, le=2, strict=True, allow_inf_nan=False)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1, strict=True, allow_inf_nan=False)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63, strict=True)] = None
    max_tokens: Tokens = None
    max_completion_tokens: Tokens = None
    stop: Annotated[str | list[str] | None, BeforeValidator(_stop)] = None
    waltz: WaltzOptions = Field(default_factory=WaltzOptions)

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_supported(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise _wrong("The body must be a JSON object.")
        for name, given in value.items():
            if name in cls.model_fields or name in NO_EFFECT or given is None:
                continue
            if name not in UNSUPPORTED:
                shown = name if _NAME.fullmatch(name) else ""
                raise _wrong(f"Unknown parameter{shown and f': {shown}'}.", shown)
            what, neutral = UNSUPPORTED[name]
            if not any(given == each and isinstance(given, bool) == isinstance(each, bool) for each in neutral):
                raise _wrong(f"{what} not supported by this server.", name)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise _wrong("stream_options needs stream to be true.", "stream_options")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise _wrong("max_tokens and max_completion_tokens differ. Give one of them.", "max_tokens")
        return self

    def chat(self) -> list[Message]:
        """The messages, each with its text in one piece."""
        return [message.message() for message in self.messages]

    def options(self) -> SamplingOptions:
        """How the text is sampled, and where it ends."""
        return SamplingOptions(
            temperature=0.0 if self.top_p == 0 else self.temperature,  # no mass is left but the likeliest token's
            top_p=self.top_p or None,
            max_tokens=self.max_completion_tokens or self.max_tokens,
            seed=self.seed,
            stop=tuple(self.stop or ()),
        )


_SENTENCES: Mapping[str, str] = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "greater_than_equal": "must be at least {ge:g}",
    "int_type": "must be an integer",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le:g}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "missing": "is required",
    "model_attributes_type": "must be an object",
    "model_type": "must be an object",
    "string_type": "must be a string",
    "too_short": "must not be empty",
}


def told(errors: Sequence[Json]) -> tuple[str, str | None]:
    """The first of pydantic's errors as a sentence for the client, and the parameter that it is about."""
    first = errors[0]
    kind, context = first["type"], first.get("ctx", {})
    if kind == "json_invalid":
        return NO_JSON, None
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"][1:])
    place = f"{place.lstrip('.')}{context.get('param', '')}" if kind == "wrong" else place.lstrip(".")
    if kind == "wrong":
        return first["msg"], place or None
    if not place:
        return "The body must be a JSON object.", None
    if kind == "extra_forbidden":
        return "The field waltz takes one option: details.", place if _NAME.fullmatch(
            place.rpartition(".")[2]
        ) else None
    return f"{place} {_SENTENCES.get(kind, 'is invalid').format(**context)}.", place
