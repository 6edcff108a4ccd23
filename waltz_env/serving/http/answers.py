"""A reply of the pair as a chat completion, whole or as a stream of server-sent events."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict

from waltz_env.serving.http.schemas import (
    AnswerMessage,
    ChatAnswer,
    Choice,
    Chunk,
    ChunkChoice,
    Delta,
    FeedbackSummary,
    FinishReason,
    Usage,
)
from waltz_env.serving.reply import Reply
from waltz_env.untrusted_text import encodable

PIECE = 24
"""Characters in one delta of a stream."""


def chat_answer(reply: Reply, *, model: str, mode: str, details: bool) -> ChatAnswer:
    """The whole answer."""
    return ChatAnswer(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=model,
        choices=(Choice(message=AnswerMessage(content=encodable(reply.text)), finish_reason=_finish_reason(reply)),),
        usage=_usage(reply),
        waltz=_summary(reply, mode) if details else None,
    )


def events(answer: ChatAnswer, *, include_usage: bool) -> Iterator[str]:
    """The answer as server-sent events: role, text piece by piece, finish reason, usage if asked for, ``[DONE]``.

    A draft must not be seen before the feedback agent has approved it, so a stream begins when the answer is final.
    """
    (choice,) = answer.choices
    text = choice.message.content
    yield _event(answer, [ChunkChoice(delta=Delta(role="assistant", content=""))])
    for start in range(0, len(text), PIECE):
        yield _event(answer, [ChunkChoice(delta=Delta(content=text[start : start + PIECE]))])
    yield _event(answer, [ChunkChoice(delta=Delta(), finish_reason=choice.finish_reason)], waltz=answer.waltz)
    if include_usage:
        yield _event(answer, [], usage=answer.usage)
    yield "data: [DONE]\n\n"


def _event(
    answer: ChatAnswer, choices: list[ChunkChoice], *, usage: Usage | None = None, waltz: FeedbackSummary | None = None
) -> str:
    chunk = Chunk(id=answer.id, created=answer.created, model=answer.model, choices=choices, usage=usage, waltz=waltz)
    return f"data: {chunk.model_dump_json()}\n\n"


def _finish_reason(reply: Reply) -> FinishReason:
    if reply.refused:
        return "content_filter"
    return "stop" if reply.game.final.completion.finish == "stop" else "length"


def _usage(reply: Reply) -> Usage | None:
    game = reply.game
    turns = [
        *(response.completion for response in game.responses),
        *(critique.completion for critique in game.critiques),
    ]
    if any(turn.prompt_ids is None or turn.token_ids is None for turn in turns):
        return None
    prompt = sum(len(turn.prompt_ids or ()) for turn in turns)
    completion = sum(len(turn.token_ids or ()) for turn in turns)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def _summary(reply: Reply, mode: str) -> FeedbackSummary:
    labels = reply.feedback.labels if reply.feedback else None
    return FeedbackSummary(
        mode=mode,
        triggered=reply.triggered,
        unsafe=labels.unsafe if labels else None,
        overrefuse=labels.overrefuse if labels else None,
        revised=len(reply.game.responses) > 1,
        refused=reply.refused,
        failure=f"{reply.failure.agent}: {reply.failure.kind}" if reply.failure else None,
        latency=asdict(reply.latency),
    )
