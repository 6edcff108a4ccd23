"""What a response does: answer, refuse, or neither."""

from __future__ import annotations

from enum import StrEnum


class Finding(StrEnum):
    """What a response does with its request. The value is the rationale of the judgement."""

    ANSWER = "answer"
    REFUSAL = "refusal"
    EMPTY = "non-answer: no words"
    ORDERS = "non-answer: orders to the judge"
    COURTESY = "non-answer: courtesy without content"
    ECHO = "non-answer: repeats the prompt"
    LOOP = "non-answer: repeats itself"
    GARBAGE = "non-answer: not language"
    SALAD = "non-answer: words without an order"
    TERSE = "non-answer: too few words"
    OFF_TOPIC = "non-answer: about something else"
    UNFINISHED = "non-answer: breaks off before any content"

    @property
    def non_answer(self) -> bool:
        """Whether the response neither answers nor refuses, so that it cannot serve its user."""
        return self not in (Finding.ANSWER, Finding.REFUSAL)
