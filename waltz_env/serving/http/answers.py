"""A reply of the pair as a chat completion, whole or as a stream of server-sent events."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from typing import Literal

from waltz_env.serving.http.schemas import (
    AnswerMessage,
    ChatAnswer,
    Choice,
    Chunk,
    ChunkChoice,
    Delta,
    FeedbackSummary,
    FinishReason,
    HiddenTokens,
    UsageReport,
)
from waltz_env.serving.reply import Reply
from waltz_env.untrusted_text import encodable

PIECE = 24
"""Characters in one delta of a stream."""


Review = Literal["reviewed", "unreviewed", "refused"]


def review(reply: Reply) -> Review:
    """Return what stands behind an answer: a review, none, or the fixed refusal in its place."""
    if reply.refused:
        return "refused"
    return "reviewed" if reply.reviewed else "unreviewed"


def chat_answer(reply: Reply, *, model: str, mode: str, details: bool) -> ChatAnswer:
    """Return the whole answer. An unreviewed one has its summary whether ``details`` are wanted or not."""
    return ChatAnswer(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=model,
        choices=(Choice(message=AnswerMessage(content=encodable(reply.text)), finish_reason=_finish_reason(reply)),),
        usage=_usage(reply),
        waltz=summary(reply, mode) if details or review(reply) == "unreviewed" else None,
    )


def events(answer: ChatAnswer, *, include_usage: bool) -> Iterator[str]:
    """Yield the answer as server-sent events: role, pieces of text, finish reason, usage if wanted, ``[DONE]``.

    Nobody may see a draft before the feedback agent has approved it, so a stream begins when the answer is final.
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
    answer: ChatAnswer,
    choices: list[ChunkChoice],
    *,
    usage: UsageReport | None = None,
    waltz: FeedbackSummary | None = None,
) -> str:
    chunk = Chunk(id=answer.id, created=answer.created, model=answer.model, choices=choices, usage=usage, waltz=waltz)
    return f"data: {chunk.model_dump_json()}\n\n"


def _finish_reason(reply: Reply) -> FinishReason:
    if reply.refused:
        return "content_filter"
    return "stop" if reply.game.final.completion.finish == "stop" else "length"


def _usage(reply: Reply) -> UsageReport:
    prompt, completion = reply.usage.prompt_tokens, reply.usage.completion_tokens
    return UsageReport(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        completion_tokens_details=HiddenTokens(reasoning_tokens=reply.hidden_tokens),
    )


def summary(reply: Reply, mode: str) -> FeedbackSummary:
    """Return what happened to the draft."""
    labels = reply.feedback.labels if reply.feedback else None
    return FeedbackSummary(
        mode=mode,
        reviewed=reply.reviewed,
        triggered=reply.triggered,
        unsafe=labels.unsafe if labels else None,
        overrefuse=labels.overrefuse if labels else None,
        revised=len(reply.game.responses) > 1,
        refused=reply.refused,
        failure=f"{reply.failure.agent}: {reply.failure.kind}" if reply.failure else None,
        latency=asdict(reply.latency),
    )
