"""The discrete twin of ``WaltzSafetyEnv``: the same game, chosen from a few moves and seen as a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from waltz_env.aec import WaltzSafetyAECEnv
from waltz_env.checks import check_index, check_mapping, check_seed
from waltz_env.choice.dynamics import (
    ANSWER,
    CRITIQUES,
    DECLINE_ADVICE,
    LOOKS_HARMFUL,
    PROMPTS,
    REFUSAL,
    ConversationAction,
    Dynamics,
    FeedbackAction,
    KindJudge,
)
from waltz_env.env import RenderMode, WaltzSafetyEnv
from waltz_env.errors import UsageError
from waltz_env.rewards import RewardWeights
from waltz_env.rules import Rules
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK, AgentID, Info, Observation
from waltz_env.views import FixedSpaces, View

FEATURES = ("active", "is_feedback", "round", "looks_harmful", "refuses", "advice", "reading")
_ACTIONS: dict[AgentID, type[ConversationAction | FeedbackAction]] = {
    CONVERSATION: ConversationAction,
    FEEDBACK: FeedbackAction,
}
_NAMES = {
    agent: f"An action of {agent} ({', '.join(f'{move.value} {move.name}' for move in moves)})"
    for agent, moves in _ACTIONS.items()
}


class WaltzSafetyChoiceEnv(View, FixedSpaces, ParallelEnv[AgentID, Any, Any]):  # type: ignore[override]  # `agents`
    """The game of ``WaltzSafetyEnv`` for classic multi-agent algorithms: agents choose moves, a simulated model writes.

    | Import             | `waltz_env.make("WaltzSafetyChoice-v0")` |
    |--------------------|------------------------------------------|
    | Agents             | `["conversation_0", "feedback_0"]`       |
    | Actions            | discrete                                 |
    | Action space       | `Discrete(4)`                            |
    | Observation space  | `Box(-1, 1, (7,), float32)`              |
    | State space        | `Box(-1, 1, (7,), float32)`              |
    | Parallel, AEC      | both (`waltz_env.make_aec`)              |

    A `WaltzSafetyEnv` plays the game inside; its docstring describes turns, ends, rewards, reward set-ups, infos and
    rendering. The language model and the user are simulated. docs/choice.md works out the best strategies and their
    returns.

    ### The user
    A prompt is harmful or benign (`Dynamics.harmful`) and looks like what it is, unless it is misleading
    (`misleading`): adversarial prompts are harmful and look harmless, borderline prompts are benign and look harmful.
    Complying with a harmful prompt is unsafe, refusing a benign one is overrefusing.

    ### Actions of the conversation agent
    | Action | Name     | The simulated model                                                                        |
    |--------|----------|--------------------------------------------------------------------------------------------|
    | 0      | `REFUSE` | refuses; answers by mistake with probability `slip` (`misled_slip` if it looks harmless)   |
    | 1      | `ANSWER` | answers; refuses by mistake with probability `slip` (`misled_slip` if it looks harmful)    |
    | 2      | `KEEP`   | repeats the latest response; before the first one, like `ANSWER`                           |
    | 3      | `FOLLOW` | does what the latest advice says with probability `follow`; without advice, like `ANSWER`  |

    ### Actions of the feedback agent
    | Action | Name              | What it writes                                                                    |
    |--------|-------------------|-----------------------------------------------------------------------------------|
    | 0      | `PASS`            | flags nothing, and the game ends                                                  |
    | 1      | `FLAG_UNSAFE`     | flags the response as unsafe and advises to decline                               |
    | 2      | `FLAG_OVERREFUSE` | flags the response as overrefusing and advises to answer                          |
    | 3      | `MALFORMED`       | no JSON: no reward, and the game ends                                             |

    ### Observations
    | Feature         | Values                                                                              |
    |-----------------|-------------------------------------------------------------------------------------|
    | `active`        | 1: this agent's action counts in the next step; 0: it does not                      |
    | `is_feedback`   | 1: this is the feedback agent; 0: the conversation agent                            |
    | `round`         | critiques so far, divided by `max_rounds`                                           |
    | `looks_harmful` | 1: the prompt looks harmful; -1: it looks harmless                                  |
    | `refuses`       | 1: the latest response refuses; -1: it answers; 0: no response yet                  |
    | `advice`        | 1: the latest advice is to decline; -1: to answer; 0: no advice yet                 |
    | `reading`       | the feedback agent's view of prompt and response: 1 harmful, -1 benign, 0 none yet  |

    The reading is right with probability `Dynamics.reading` and does not change during a game. Like the reasoning in
    the text game, it belongs to the feedback agent: for the conversation agent it is always 0.

    ### Global state
    `state()` is for centralized critics: whether it is the conversation agent's turn, whether it is the feedback
    agent's turn, then the features from `round` to `reading`. Like the observations, it does not hold the kind.

    Args:
        dynamics: probabilities of the simulation.
        weights: weights of the feedback agent's reward, or the name of a set-up in `waltz_env.rewards.SETUPS`.
        rules: decide when the game ends; the paper's game by default.
        max_rounds: short for `rules=Rules(max_rounds=...)`: the largest number of rounds of feedback and revision.
        render_mode: as for `WaltzSafetyEnv`.

    Raises:
        UsageError: a setting cannot work.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]  # PettingZoo declares it on instances
        **WaltzSafetyEnv.metadata,
        "name": "waltz_safety_choice_v0",
    }

    def __init__(
        self,
        dynamics: Dynamics | None = None,
        *,
        weights: RewardWeights | str = "A",
        rules: Rules | None = None,
        max_rounds: int | None = None,
        render_mode: RenderMode | None = None,
    ) -> None:
        self.dynamics = Dynamics() if dynamics is None else dynamics
        self._env = WaltzSafetyEnv(
            PROMPTS, KindJudge(), weights=weights, rules=rules, max_rounds=max_rounds, render_mode=render_mode
        )
        self.prompts = self._env.prompts
        self.weights = self._env.weights
        self.rules = self._env.rules
        self.possible_agents = self._env.possible_agents
        self.observation_spaces = {agent: _features_space() for agent in AGENTS}
        self.action_spaces = {agent: spaces.Discrete(len(_ACTIONS[agent])) for agent in AGENTS}
        self.state_space = _features_space()
        self._np_random: np.random.Generator | None = None
        self._reading = 0.0
        self._seen: Observation | None = None

    @property
    def max_rounds(self) -> int:
        """The largest number of rounds of feedback and revision."""
        return self.rules.max_rounds

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[AgentID, NDArray[np.float32]], dict[AgentID, Info]]:
        """Starts a game.

        Args:
            seed: seeds all draws from this game on. With None the draws continue.
            options: ``"prompt"``, an index into ``prompts``, chooses the prompt instead of drawing it. Other keys are
                ignored.

        Raises:
            UsageError: ``options["prompt"]`` is out of range, or the seed is below 0.
            UsageTypeError: ``options["prompt"]`` or the seed is not an integer, or ``options`` is no mapping.
        """
        if options is not None:
            check_mapping("options", options, such_as='{"prompt": 0}')
        if seed is not None or self._np_random is None:
            self._np_random, _ = seeding.np_random(None if seed is None else check_seed(seed))
        kind, look, reading = self._np_random.random(3)
        choice = None if options is None else options.get("prompt")
        if choice is None:
            choice = (0 if kind < self.dynamics.harmful else 2) + int(look < self.dynamics.misleading)
        choice = check_index('options["prompt"]', choice, len(self.prompts))
        observations, infos = self._env.reset(options={"prompt": choice})
        harmful = self.prompts[choice].harmful
        self._reading = 1.0 if harmful == (reading < self.dynamics.reading) else -1.0
        return self._encoded(observations), infos

    def step(
        self, actions: Mapping[AgentID, int]
    ) -> tuple[
        dict[AgentID, NDArray[np.float32]],
        dict[AgentID, float],
        dict[AgentID, bool],
        dict[AgentID, bool],
        dict[AgentID, Info],
    ]:
        """Plays one turn of the active agent.

        Args:
            actions: number of an action per agent. The active agent's is required; the idle agent's is ignored.

        Returns:
            Observations, rewards, terminations, truncations and infos, each a dict by agent.

        Raises:
            UsageError: no game is running, the active agent's action is missing or out of range, or an agent
                is unknown.
            UsageTypeError: the active agent's action is not an integer.
        """
        turn = self.turn
        check_mapping("actions", actions, such_as='{"conversation_0": 0}')
        said = {agent: self._text(agent, action) if agent == turn else None for agent, action in actions.items()}
        observations, rewards, terminations, truncations, infos = self._env.step(said)
        return self._encoded(observations), rewards, terminations, truncations, infos

    def state(self) -> NDArray[np.float32]:
        """The game as both agents together see it, shape (7,) float32, for centralized critics.

        Raises:
            UsageError: ``reset`` was never called.
        """
        if self._seen is None:
            raise UsageError("state() needs a game: call reset() first.")
        seen, turn = self._seen, self.turn
        return np.array([turn == CONVERSATION, turn == FEEDBACK, *self._features(seen), self._shown(seen)], np.float32)

    def _text(self, agent: AgentID, action: Any) -> str:
        """What ``agent`` says after choosing ``action``; for the conversation agent, the simulated model decides."""
        move = _move(agent, action)
        if isinstance(move, FeedbackAction):
            return CRITIQUES[move]
        seen = self._seen
        assert seen is not None
        assert self._np_random is not None, "a game is running: reset has made both"
        refusal = self.dynamics.refusal(
            move,
            seen["prompt"] == LOOKS_HARMFUL,
            draft_refuses=seen["responses"][-1] == REFUSAL if seen["responses"] else None,
            advice=seen["feedback"][-1] if seen["feedback"] else "",
        )
        return REFUSAL if self._np_random.random() < refusal else ANSWER

    def _encoded(self, observations: Mapping[AgentID, Observation]) -> dict[AgentID, NDArray[np.float32]]:
        seen = self._seen = observations[FEEDBACK]  # the other observation differs only in `agent` and `active`
        features = self._features(seen)
        return {
            CONVERSATION: np.array([observations[CONVERSATION]["active"], 0, *features, 0], np.float32),
            FEEDBACK: np.array([seen["active"], 1, *features, self._shown(seen)], np.float32),
        }

    def _features(self, seen: Observation) -> tuple[float, float, float, float]:
        responses, advice = seen["responses"], seen["feedback"]
        return (
            len(advice) / max(1, self.rules.max_rounds),
            _sign(seen["prompt"] == LOOKS_HARMFUL),
            _sign(responses[-1] == REFUSAL) if responses else 0.0,
            _sign(advice[-1] == DECLINE_ADVICE) if advice and advice[-1] else 0.0,
        )

    def _shown(self, seen: Observation) -> float:
        """The reading, once there is a draft to read."""
        return self._reading if seen["responses"] else 0.0


class WaltzSafetyChoiceAECEnv(WaltzSafetyAECEnv):
    """The game of ``WaltzSafetyChoiceEnv`` with one agent selected at a time, as in ``WaltzSafetyAECEnv``.

    Args:
        **settings: arguments of ``WaltzSafetyChoiceEnv``.
    """

    metadata: ClassVar[dict[str, Any]] = {**WaltzSafetyChoiceEnv.metadata, "is_parallelizable": False}  # type: ignore[misc]
    _parallel = WaltzSafetyChoiceEnv


def _features_space() -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (len(FEATURES),), np.float32)


def _sign(yes: bool) -> float:
    return 1.0 if yes else -1.0


def _move(agent: AgentID, action: Any) -> ConversationAction | FeedbackAction:
    moves = _ACTIONS[agent]
    return moves(check_index(_NAMES[agent], action, len(moves)))
