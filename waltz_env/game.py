"""The state machine of one game: whose turn it is, what each agent sees, when it ends. No I/O."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

from waltz_env.errors import UsageError, UsageTypeError
from waltz_env.feedback import parse_feedback
from waltz_env.plain import plain_bool, plain_completion
from waltz_env.rules import Rules, check_rules
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


class Game:
    """One game: c_0, f_0, c_1, f_1, ... (arXiv:2510.08240, sec. 3).

    Under the default rules it ends when the feedback agent flags nothing or writes malformed feedback, or after
    ``max_rounds`` rounds of feedback and revision. The last response never gets feedback.

    Args:
        prompt: what the user asks.
        rules: decide when the game ends and how long an action may be.

    Attributes:
        turn: whose turn it is; None once the game has ended.
        branch: place of the game in a tree of games, see ``split``.
    """

    __slots__ = ("_advice", "_critiques", "_judged", "_responses", "_texts", "branch", "prompt", "rules", "turn")

    def __init__(self, prompt: Prompt, rules: Rules = Rules()) -> None:
        check_rules(rules)
        self.prompt = prompt
        self.rules = rules
        self.turn: AgentID | None = CONVERSATION
        self.branch: tuple[int, ...] = ()
        self._responses: tuple[Response, ...] = ()
        self._judged: tuple[Response, ...] = ()  # the same up to the latest judgement; the rules see none
        self._critiques: tuple[Critique, ...] = ()
        self._texts: tuple[str, ...] = ()
        self._advice: tuple[str, ...] = ()

    def observe(self, agent: AgentID) -> Observation:
        """What ``agent`` sees now. Both agents see only the advice from each critique, never its reasoning or flags."""
        return {
            "agent": agent,
            "active": int(agent == self.turn),
            "prompt": self.prompt.text,
            "history": self.prompt.history,
            "responses": self._texts,
            "feedback": self._advice,
        }

    def act(self, action: Completion | str) -> None:
        """Makes the move of the agent whose turn it is. Any string is legal.

        Raises:
            UsageError: the game has ended.
            UsageTypeError: the action is not a text, or a field of the completion has the wrong type.
        """
        if self.turn is None:
            raise UsageError("The game has ended; start another one.")
        completion = self._plain(action) if isinstance(action, Completion) else Completion(action)
        if not isinstance(completion.text, str):
            raise UsageTypeError(
                f"An action must be a string; {self.turn} gave {completion.text!r} ({type(completion.text).__name__})."
            )
        rules = self.rules
        if len(completion.text) > rules.max_chars:
            completion = replace(completion, text=completion.text[: rules.max_chars], finish="cut")
        if self.turn == CONVERSATION:
            self._responses += (Response(completion),)
            self._texts += (completion.text,)
            goes_on = len(self._critiques) < rules.max_rounds and self._decided(rules.asks_feedback(self._unjudged()))
            self.turn = FEEDBACK if goes_on else None
        else:
            critique = Critique(completion, parse_feedback(completion.text))
            self._critiques += (critique,)
            self._advice += (critique.feedback.advice,)
            self.turn = CONVERSATION if self._decided(rules.asks_revision(self._unjudged())) else None

    def judge(self, judgement: Judgement) -> None:
        """Attaches a judgement to the latest response."""
        *earlier, latest = self._with_judgements()
        self._judged = (*earlier, Response(latest.completion, judgement))

    def split(self, count: int) -> list[Game]:
        """``count`` games that share all turns so far and go on by themselves; each adds its number to ``branch``."""
        games = [copy(self) for _ in range(count)]
        for number, game in enumerate(games):
            game.branch = (*self.branch, number)
        return games

    def trajectory(self) -> Trajectory:
        """The game so far, with the judgements that there are."""
        return Trajectory(self.prompt, self._with_judgements(), self._critiques, self.branch)

    def _decided(self, decision: object) -> bool:
        """The decision of a rule of one's own; "no" and a forgotten return are not decisions."""
        if decision is True or decision is False:
            return decision
        return plain_bool(f"A decision of {type(self.rules).__name__}", decision)

    def _plain(self, action: Completion) -> Completion:
        try:
            return plain_completion(action)
        except UsageTypeError as error:
            raise UsageTypeError(f"The agent {self.turn!r} gave an action that is not usable: {error}") from None

    def _unjudged(self) -> Trajectory:
        return Trajectory(self.prompt, self._responses, self._critiques)

    def _with_judgements(self) -> tuple[Response, ...]:
        return self._judged + self._responses[len(self._judged) :]
