"""The rules: whose turn it is, what each agent sees, when the game ends. A state machine without I/O."""

from __future__ import annotations

from dataclasses import replace

from waltz_env.errors import UsageError, UsageTypeError
from waltz_env.feedback import parse_feedback
from waltz_env.types import (
    CONVERSATION,
    FEEDBACK,
    AgentID,
    Completion,
    Critique,
    Judgement,
    Observation,
    Prompt,
    Response,
    Trajectory,
)

MAX_CHARS = 16_384


class Game:
    """One game: c_0, f_0, c_1, f_1, ... (arXiv:2510.08240, sec. 3).

    It ends when the feedback agent flags nothing or is malformed, or after ``max_rounds`` rounds of feedback and
    revision. There is no feedback on the last response; with ``max_rounds`` 0 the game is c_0 alone.

    Args:
        prompt: what the user asks.
        max_rounds: T_max, rounds of feedback at most; 1 in the paper.
        max_chars: a longer action is cut there and marked (``Completion.finish == "cut"``).
        always_revise: go on after feedback that flags nothing, too: always-on feedback, to compare with adaptive.

    Attributes:
        turn: whose turn it is; None once the game has ended.
    """

    __slots__ = (
        "_critiques",
        "_feedback",
        "_responses",
        "_texts",
        "always_revise",
        "max_chars",
        "max_rounds",
        "prompt",
        "turn",
    )

    def __init__(
        self, prompt: Prompt, *, max_rounds: int = 1, max_chars: int = MAX_CHARS, always_revise: bool = False
    ) -> None:
        if max_rounds < 0 or max_chars < 1:
            raise UsageError(
                f"max_rounds must be 0 or more and max_chars 1 or more; got max_rounds={max_rounds}, "
                f"max_chars={max_chars}."
            )
        self.prompt = prompt
        self.max_rounds = max_rounds
        self.max_chars = max_chars
        self.always_revise = always_revise
        self.turn: AgentID | None = CONVERSATION
        self._responses: list[Response] = []
        self._critiques: list[Critique] = []
        self._texts: tuple[str, ...] = ()
        self._feedback: tuple[str, ...] = ()

    def observe(self, agent: AgentID) -> Observation:
        """What ``agent`` sees now. Of the feedback, both see the advice alone: it is all that was said aloud."""
        return {
            "agent": agent,
            "active": int(agent == self.turn),
            "prompt": self.prompt.text,
            "history": self.prompt.history,
            "responses": self._texts,
            "feedback": self._feedback,
        }

    def act(self, action: Completion | str) -> None:
        """The move of the agent whose turn it is. Any string is legal.

        Raises:
            UsageError: the game has ended.
            UsageTypeError: the action is no text.
        """
        if self.turn is None:
            raise UsageError("The game has ended; start another one.")
        completion = action if isinstance(action, Completion) else Completion(action)
        if not isinstance(completion.text, str):
            raise UsageTypeError(
                f"An action must be a string; {self.turn} gave {completion.text!r} ({type(completion.text).__name__})."
            )
        if len(completion.text) > self.max_chars:
            completion = replace(completion, text=completion.text[: self.max_chars], finish="cut")
        if self.turn == CONVERSATION:
            self._responses.append(Response(completion))
            self._texts += (completion.text,)
            self.turn = FEEDBACK if len(self._critiques) < self.max_rounds else None
        else:
            critique = Critique(completion, parse_feedback(completion.text))
            self._critiques.append(critique)
            self._feedback += (critique.feedback.advice,)
            goes_on = critique.feedback.well_formed if self.always_revise else critique.feedback.asks_revision
            self.turn = CONVERSATION if goes_on else None

    def judge(self, judgement: Judgement) -> None:
        """Puts the judge's verdict on the latest response."""
        self._responses[-1] = replace(self._responses[-1], judgement=judgement)

    def trajectory(self) -> Trajectory:
        """The game so far."""
        return Trajectory(self.prompt, tuple(self._responses), tuple(self._critiques))
