"""What the pair in use answers with."""

from __future__ import annotations

from dataclasses import dataclass

from waltz_env.errors import AgentFailure
from waltz_env.types import AgentID, Feedback, Trajectory


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a game was not played to its end.

    Attributes:
        agent: who failed.
        kind: ``"timeout"``, ``"unavailable"``, ``"malformed"`` (the feedback is no feedback) or ``"error"``.
        reason: for logs; never what a user or an agent wrote.
    """

    agent: AgentID
    kind: AgentFailure
    reason: str


@dataclass(frozen=True, slots=True)
class Latency:
    """Wall-clock seconds of each phase, waiting for a batch included; 0 where there was none. Rounds are summed."""

    draft: float
    feedback: float
    revision: float
    total: float


@dataclass(frozen=True, slots=True)
class Reply:
    """The pair's answer, and the game that led to it.

    Attributes:
        text: for the user.
        game: every response and critique.
        latency: how long it took.
        failure: what kept the game from its end; None: nothing did.
        refused: whether ``text`` is the fixed refusal, because of ``failure``.
    """

    text: str
    game: Trajectory
    latency: Latency
    failure: Failure | None = None
    refused: bool = False

    @property
    def draft(self) -> str:
        """c_0."""
        return self.game.responses[0].text

    @property
    def feedback(self) -> Feedback | None:
        """f_0; None where the feedback agent was not asked or said nothing."""
        return self.game.critiques[0].feedback if self.game.critiques else None

    @property
    def triggered(self) -> bool:
        """Whether f_0 flagged anything."""
        return self.game.triggered
