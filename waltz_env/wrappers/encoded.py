"""Both agents for libraries that need arrays: vectors in, the number of a ready-made action out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from waltz_env.env import WaltzSafetyEnv
from waltz_env.errors import unknown_name
from waltz_env.judges import RefusalJudge
from waltz_env.types import AGENTS, AgentID, Info, Observation
from waltz_env.views import FixedSpaces, View
from waltz_env.wrappers.choices import CHOICES, Choice, chosen
from waltz_env.wrappers.encoders import Encoder, cached
from waltz_env.wrappers.encoding import encode_observations, encode_state, encoded_space

Vectors = dict[AgentID, NDArray[np.float32]]


class EncodedEnv(View, FixedSpaces, ParallelEnv[AgentID, Any, Any]):  # type: ignore[override]  # `agents`
    """The text environment with vectors as observations and ready-made texts as actions, for both agents.

    Rewards, turns, ends and infos are the text environment's. An idle agent's action is ignored; column 0 of its
    observation is 0.

    | space         | per agent                                                                          |
    |---------------|------------------------------------------------------------------------------------|
    | observation   | `Box(-1, 1, (4 + 3 * encoder.size,), float32)`, see `waltz_env.wrappers.encoding`  |
    | action        | `Discrete(len(choices[agent]))`                                                    |
    | `state_space` | the same box as for observations                                                   |

    Args:
        env: the text environment, `waltz_env.make("WaltzSafety-v0", ...)`.
        encoder: turns texts into vectors; `HashedNgrams()` by default.
        choices: the ready-made actions per agent. The default answer has no content: with the default actions, an
            environment that was made without a judge gets `RefusalJudge()`.

    Raises:
        UsageError: `choices` names an unknown agent, or the default encoder is not installed.
    """

    def __init__(
        self,
        env: ParallelEnv[AgentID, Any, Any],
        encoder: Encoder | None = None,
        *,
        choices: Mapping[AgentID, Sequence[Choice]] = CHOICES,
    ) -> None:
        self.env = self._env = env
        inner = env.unwrapped
        if choices is CHOICES and isinstance(inner, WaltzSafetyEnv) and inner.has_default_judge:
            inner.judge = RefusalJudge()
        self.encoder = cached(encoder)
        self.choices = {agent: tuple(choices.get(agent, CHOICES[agent])) for agent in AGENTS}
        for agent in choices:
            if agent not in AGENTS:
                raise unknown_name("agent", str(agent), AGENTS)
        self.metadata = env.metadata
        self.possible_agents = env.possible_agents
        self.observation_spaces: dict[AgentID, spaces.Space[Any]] = {
            agent: encoded_space(self.encoder) for agent in AGENTS
        }
        self.action_spaces: dict[AgentID, spaces.Space[Any]] = {
            agent: spaces.Discrete(len(self.choices[agent])) for agent in AGENTS
        }
        self.state_space = encoded_space(self.encoder)
        self._observations: Mapping[AgentID, Observation] = {}

    @property
    def unwrapped(self) -> ParallelEnv[AgentID, Any, Any]:
        """The text environment."""
        return self._env.unwrapped

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Vectors, dict[AgentID, Info]]:
        """Starts a game; arguments as for ``WaltzSafetyEnv.reset``."""
        self._observations, infos = self._env.reset(seed, dict(options or {}))
        return self._encoded(), infos

    def step(
        self, actions: Mapping[AgentID, int]
    ) -> tuple[Vectors, dict[AgentID, float], dict[AgentID, bool], dict[AgentID, bool], dict[AgentID, Info]]:
        """Plays one turn of the active agent.

        Raises:
            UsageError: the active agent's action is out of range, or the text environment refuses the step.
            UsageTypeError: the active agent's action is not an integer.
            JudgeError: the judge gave no verdict.
        """
        texts = {agent: self._text(agent, action) for agent, action in actions.items()}
        self._observations, rewards, terminations, truncations, infos = self._env.step(texts)
        return self._encoded(), rewards, terminations, truncations, infos

    def state(self) -> NDArray[np.float32]:
        """The global state as one vector, shape (4 + 3 * encoder.size,) float32."""
        return encode_state(self.encoder, self._env.state())

    def _text(self, agent: AgentID, action: int) -> str:
        """The text of the action; empty for an idle agent, whose action the text environment ignores."""
        seen = self._observations.get(agent)
        return chosen(self.choices[agent], action, seen).text if seen is not None and seen["active"] else ""

    def _encoded(self) -> Vectors:
        vectors = encode_observations(self.encoder, list(self._observations.values()))
        return dict(zip(self._observations, vectors, strict=True))
