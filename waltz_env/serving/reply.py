"""What the pair in production answers with."""

from __future__ import annotations

from dataclasses import dataclass

from waltz_env.errors import AgentFailure
from waltz_env.types import FEEDBACK, AgentID, Feedback, Trajectory, Usage


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a game was not played to its end.

    Attributes:
        agent: the agent that failed.
        kind: as in ``AgentError``, or ``"malformed"``: the feedback is not the JSON object that it should be.
        reason: a sentence for logs; never what a user or an agent wrote.
    """

    agent: AgentID
    kind: AgentFailure
    reason: str


@dataclass(frozen=True, slots=True)
class Latency:
    """Wall-clock seconds per phase, summed over rounds; 0 if there was none.

    Attributes:
        draft: seconds in which the draft ran.
        feedback: seconds in which critiques ran.
        revision: seconds in which revisions ran.
        queue: seconds of waiting for a turn, in all phases.
        total: seconds from the request to the reply.
    """

    draft: float
    feedback: float
    revision: float
    queue: float
    total: float


@dataclass(frozen=True, slots=True)
class Reply:
    """The pair's answer, and the game that led to it.

    Attributes:
        text: text for the user.
        game: every response and critique.
        latency: how long it took.
        failure: why the game could not be played to its end; None if it was.
        refused: whether ``text`` is the fixed refusal, because of ``failure``.
        usage: number of tokens of all turns, estimated for agents that do not count them.
        hidden_tokens: completion tokens of the turns that the user does not see.
    """

    text: str
    game: Trajectory
    latency: Latency
    failure: Failure | None = None
    refused: bool = False
    usage: Usage = Usage(0, 0)
    hidden_tokens: int = 0

    @property
    def reviewed(self) -> bool:
        """Whether the feedback agent reviewed the text, or the response that the text revises.

        False in mode ``"off"``, where a rule skips the feedback, after ``fail_open`` without usable feedback, and for
        the fixed refusal.
        """
        if self.refused or not self.game.critiques or not self.game.critiques[-1].feedback.well_formed:
            return False
        return self.failure is None or self.failure.agent != FEEDBACK

    @property
    def draft(self) -> str:
        """c_0."""
        return self.game.responses[0].text

    @property
    def feedback(self) -> Feedback | None:
        """f_0; None if the feedback agent was not asked or gave no completion."""
        return self.game.critiques[0].feedback if self.game.critiques else None

    @property
    def triggered(self) -> bool:
        """Whether f_0 flagged anything."""
        return self.game.triggered
