"""One agent's view of the game, for single-agent libraries: the other agent is part of the environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import gymnasium
from gymnasium import spaces

from waltz_env.checks import check_seed
from waltz_env.env import RenderMode, WaltzSafetyEnv
from waltz_env.errors import UsageError, unknown_name
from waltz_env.judges import RefusalJudge
from waltz_env.protocols import Agent
from waltz_env.scripted import FollowAdvice, OracleFeedback
from waltz_env.types import AGENTS, CONVERSATION, AgentID, Info, Observation, Trajectory
from waltz_env.wrappers.choices import CHOICES, Choice, chosen
from waltz_env.wrappers.encoders import Encoder, cached
from waltz_env.wrappers.encoding import encode_observations, encoded_space

_ATTEMPTS = 1_000


class SingleAgentEnv(gymnasium.Env[Any, Any]):
    """The game from one role's side: one role acts, any agent plays the other, one episode is one game.

    `gymnasium.make("waltz_env/WaltzFeedback-v0")` and `"waltz_env/WaltzConversation-v0"`, after `import waltz_env`.

    A step is a turn of the role together with the partner's turn that follows, if any. Its reward is everything that
    the role earns in it: a critique is paid for the improvement in its own step, because the partner's revision is part
    of that step. Over an episode the rewards add up to `waltz_env.rewards.score(trajectory)`.

    | role             | steps of an episode              | partner by default                                        |
    |------------------|----------------------------------|-----------------------------------------------------------|
    | `feedback_0`     | critiques, 1 to `max_rounds`     | `FollowAdvice`: drafts at random, follows 90 % of advice  |
    | `conversation_0` | responses, 1 to `1 + max_rounds` | `OracleFeedback`: the true labels, advice that fits them  |

    By default observations and actions are like those of `EncodedEnv`, with `text=True` like those of
    `WaltzSafetyEnv`. Infos are the text environment's for that role, with the reward parts of the whole step, so only
    the feedback agent's last info holds the `trajectory`; `trajectory()` is the game of either role.

    Args:
        role: the role that acts.
        partner: plays the other role: an agent, or a function from a seed to an agent. The function is called once per
            game; `reset(seed=...)` seeds the seeds.
        text: whether observations and actions are texts.
        encoder: turns observations into vectors; `HashedNgrams()` by default.
        choices: the ready-made actions; `waltz_env.wrappers.CHOICES[role]` by default.
        render_mode: as for `WaltzSafetyEnv`. `"rgb_array"`, which some libraries ask for, means None.
        **settings: arguments of `WaltzSafetyEnv`: prompts, judge, weights, rules, max_rounds, max_chars. The judge is
            `RefusalJudge()` by default where the conversation agent's texts are ready-made: they have no content.

    Raises:
        UsageError: the role is unknown or has no turn (the feedback agent with `max_rounds=0`), a setting cannot work,
            or `encoder` or `choices` was given with `text=True`.
    """

    # Gymnasium warns if an environment that renders has no frame rate. The frames here are turns.
    metadata: ClassVar[dict[str, Any]] = {**WaltzSafetyEnv.metadata, "render_fps": 1}  # type: ignore[misc]

    def __init__(
        self,
        role: AgentID,
        *,
        partner: Agent | Callable[[int], Agent] | None = None,
        text: bool = False,
        encoder: Encoder | None = None,
        choices: Sequence[Choice] | None = None,
        render_mode: RenderMode | Literal["rgb_array"] | None = None,
        **settings: Any,
    ) -> None:
        if role not in AGENTS:
            raise unknown_name("role", str(role), AGENTS)
        if text and (encoder is not None or choices is not None):
            raise UsageError("With text=True nothing is encoded or chosen: leave `encoder` and `choices` out.")
        if render_mode == "rgb_array":
            render_mode = None  # Stable-Baselines3 asks every environment for pictures; games of text have none
        ready_made = partner is None if role != CONVERSATION else not text and choices is None
        if ready_made and settings.get("judge") is None:
            settings["judge"] = RefusalJudge()
        self.env = WaltzSafetyEnv(render_mode=render_mode, **settings)
        if role not in self.env.rules.roles:
            raise UsageError(f"With max_rounds=0 {role!r} has no turn; set it to 1 or more.")
        self.role = role
        self.render_mode = self.env.render_mode
        self.encoder = None
        self.choices = None
        self.observation_space = self.env.observation_space(role)
        self.action_space = self.env.action_space(role)
        if not text:
            self.encoder = cached(encoder)
            self.choices = tuple(CHOICES[role] if choices is None else choices)
            self.observation_space = encoded_space(self.encoder)
            self.action_space = spaces.Discrete(len(self.choices))
        self._partner = _default_partner(role, self.env) if partner is None else partner
        self._playing: Agent | None = None
        self._seen: dict[AgentID, Observation] = {}

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Any, Info]:
        """Starts a game and plays it up to the role's first turn.

        If the rules end the game before that turn, as they can for the feedback agent, another game is started.

        Args:
            seed: seeds the draws of prompts and the partners that a function makes, from this game on.
            options: options of ``WaltzSafetyEnv.reset``.

        Raises:
            UsageError: no game out of 1,000 gave the role a turn.
            JudgeError: the judge gave no verdict on the partner's draft.
        """
        seed = None if seed is None else check_seed(seed)
        super().reset(seed=seed)
        for attempt in range(_ATTEMPTS):
            partner = self._partner
            if isinstance(partner, Agent) and not isinstance(partner, type):  # a class has act() but makes agents
                self._playing = partner
            else:
                self._playing = partner(int(self.np_random.integers(2**31)))
            self._seen, infos = self.env.reset(seed if attempt == 0 else None, options)
            _, info = self._partner_plays(0.0, infos[self.role])
            if self.env.turn is not None:
                return self._observation(), info
        raise UsageError(
            f"{_ATTEMPTS:,} games ended before the first turn of {self.role!r}: with this partner, the rules "
            f"{self.env.rules!r} do not ask it for anything."
        )

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Info]:
        """Plays one turn of the role, and the partner's turn that follows.

        Raises:
            UsageError: no game is running, or the action is out of range.
            UsageTypeError: the action has the wrong type.
            JudgeError: the judge gave no verdict. The game is lost: call ``reset`` before the next step.
        """
        if self.choices is not None and self.env.turn is not None:
            action = chosen(self.choices, action, self._seen[self.role]).text
        self._seen, rewards, _, _, infos = self.env.step({self.role: action})
        reward, info = self._partner_plays(rewards[self.role], infos[self.role])
        return self._observation(), reward, self.env.turn is None, False, info

    def trajectory(self) -> Trajectory:
        """The game so far, or the latest one, as in ``WaltzSafetyEnv.trajectory``."""
        return self.env.trajectory()

    def render(self) -> Any:
        """Renders the game, as ``WaltzSafetyEnv.render`` does."""
        return self.env.render()

    def close(self) -> None:
        """Ends a running game."""
        self.env.close()

    def _partner_plays(self, reward: float, info: Info) -> tuple[float, Info]:
        """Plays the partner's turns until it is the role's turn or the game has ended; adds what the role earns."""
        while (turn := self.env.turn) not in (None, self.role):
            assert self._playing is not None
            (completion,) = self._playing.act([self._seen[turn]])
            self._seen, rewards, _, _, infos = self.env.step({turn: completion.text})
            later = infos[self.role]
            reward += rewards[self.role]
            info = {
                **later,
                "rewards": info["rewards"] | later["rewards"],
                "labels": later["labels"] or info["labels"],
                "truncated": info["truncated"],
            }
        return reward, info

    def _observation(self) -> Any:
        seen = self._seen[self.role]
        return seen if self.encoder is None else encode_observations(self.encoder, [seen])[0]


def _default_partner(role: AgentID, env: WaltzSafetyEnv) -> Agent | Callable[[int], Agent]:
    return OracleFeedback(env.prompts, env.judge) if role == CONVERSATION else _follower


def _follower(seed: int) -> Agent:
    return FollowAdvice(0.9, seed)
