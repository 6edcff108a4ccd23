"""A reply of the pair as a chat completion, whole or as a stream of server-sent events.

Nobody may see a draft before the feedback agent has approved it. A stream begins when the answer is final, or with a
revision that no critique can follow.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from typing import Literal, NamedTuple

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


class Head(NamedTuple):
    """What an answer and all chunks of a stream begin with."""

    id: str
    created: int
    model: str


def head_of(model: str) -> Head:
    """Return the head of a new answer."""
    return Head(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), model)


def chat_answer(reply: Reply, head: Head, *, mode: str, details: bool) -> ChatAnswer:
    """Return the whole answer. An unreviewed one has its summary whether ``details`` are wanted or not."""
    return ChatAnswer(
        **head._asdict(),
        choices=(Choice(message=AnswerMessage(content=encodable(reply.text)), finish_reason=_finish_reason(reply)),),
        usage=_usage(reply),
        waltz=summary(reply, mode) if details or review(reply) == "unreviewed" else None,
    )


def beginning(head: Head) -> str:
    """Return the first event of a stream: the role."""
    return _event(head, [ChunkChoice(delta=Delta(role="assistant", content=""))])


def pieces(head: Head, text: str) -> Iterator[str]:
    """Yield more of the text as events."""
    text = encodable(text)
    for start in range(0, len(text), PIECE):
        yield _event(head, [ChunkChoice(delta=Delta(content=text[start : start + PIECE]))])


def ending(head: Head, answer: ChatAnswer, *, include_usage: bool) -> Iterator[str]:
    """Yield the last events of a stream: finish reason, usage if wanted, ``[DONE]``."""
    (choice,) = answer.choices
    yield _event(head, [ChunkChoice(delta=Delta(), finish_reason=choice.finish_reason)], waltz=answer.waltz)
    if include_usage:
        yield _event(head, [], usage=answer.usage)
    yield "data: [DONE]\n\n"


def _event(
    head: Head,
    choices: list[ChunkChoice],
    *,
    usage: UsageReport | None = None,
    waltz: FeedbackSummary | None = None,
) -> str:
    chunk = Chunk(**head._asdict(), choices=choices, usage=usage, waltz=waltz)
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
