"""The rules of a game: how long it goes on, and how long an action may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from waltz_env.checks import check_integer, check_settings
from waltz_env.errors import UsageError, UsageTypeError, unknown_name
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK, AgentID, Trajectory

MAX_CHARS = 16_384


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings of a game and its two decisions: whether feedback is asked for, and whether a revision is.

    The defaults are the game of arXiv:2510.08240, sec. 3. For another rule, derive a frozen dataclass and override one
    of the two methods; training, environments, evaluation and serving all ask it (docs/extending.md):

        @dataclass(frozen=True, slots=True)
        class LongDraftsOnly(Rules):
            words: int = 20

            def asks_feedback(self, game: Trajectory) -> bool:
                return len(game.final.text.split()) > self.words

    A rule sees the game without judgements, since there are none while the game is played by ``play`` or in production.
    For the same reason it must not read the prompt's ``kind``. It must be a pure function of the game.

    Attributes:
        max_rounds: T_max, the largest number of rounds of feedback and revision; 1 in the paper. With 0 a game is the
            first response alone.
        max_chars: length at which an action is cut, in characters; a cut action has ``Completion.finish == "cut"``.
        always_revise: ask for a revision after every well-formed critique, even if it flags nothing: always-on
            feedback, to compare with the paper's adaptive feedback.

    Raises:
        UsageError: a setting is out of range.
        UsageTypeError: ``max_rounds`` or ``max_chars`` is not an integer.
    """

    max_rounds: int = 1
    max_chars: int = MAX_CHARS
    always_revise: bool = False

    def __post_init__(self) -> None:
        check_settings(self)
        check_integer("max_rounds", self.max_rounds, at_least=0)
        check_integer("max_chars", self.max_chars, at_least=1)

    @property
    def roles(self) -> tuple[AgentID, ...]:
        """The roles that may get a turn, in the order of their first turns."""
        return AGENTS if self.max_rounds > 0 else (CONVERSATION,)

    def asks_feedback(self, game: Trajectory) -> bool:
        """Whether the feedback agent is asked about the latest response, ``game.final``; if not, the game ends.

        Called after a response while rounds are left: ``Game`` enforces ``max_rounds`` itself.
        """
        return True

    def asks_revision(self, game: Trajectory) -> bool:
        """Whether the conversation agent is asked to revise after the latest critique; if not, the game ends."""
        feedback = game.critiques[-1].feedback
        return feedback.well_formed if self.always_revise else feedback.asks_revision


def rules_of(rules: Rules | None, *, max_rounds: int | None, max_chars: int | None = None) -> Rules:
    """The rules that an environment's arguments mean: ``rules``, or the default ones with these two settings.

    Raises:
        UsageError: both are given, or a setting is out of range.
        UsageTypeError: a setting is not an integer.
    """
    settings = {"max_rounds": max_rounds, "max_chars": max_chars}
    given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    if rules is None:
        return Rules(**given)
    if given:
        raise UsageError(
            f"Give either `rules` or {' and '.join(f'`{name}`' for name in given)}, not both; `rules` already has "
            f"{', '.join(f'{name}={getattr(rules, name)!r}' for name in given)}."
        )
    check_rules(rules)
    return rules


def check_rules(rules: object) -> None:
    """Check that ``rules`` are rules.

    Raises:
        UsageTypeError: they are something else, such as a class that was not called.
    """
    if not isinstance(rules, Rules):
        raise UsageTypeError(f"rules must be Rules, such as Rules(max_rounds=2); got {rules!r}.")


def check_agents(agents: Mapping[AgentID, object], rules: Rules) -> None:
    """Checks that ``agents`` holds every role that the rules may give a turn, and no unknown one.

    Raises:
        UsageError: an agent is missing or unknown.
        UsageTypeError: ``rules`` is not a ``Rules``.
    """
    check_rules(rules)
    for name in agents:
        if name not in AGENTS:
            raise unknown_name("agent", str(name), AGENTS)
    for name in rules.roles:
        if name not in agents:
            raise UsageError(
                f"The game needs an agent {name!r}; got {', '.join(map(repr, agents)) or 'none'}. Pass it in `agents`"
                + (", or set max_rounds=0 to play without feedback." if name == FEEDBACK else ".")
            )
