"""The game in turns: a PettingZoo ``AECEnv`` around the parallel environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pettingzoo import AECEnv

from waltz_env.env import WaltzSafetyEnv
from waltz_env.errors import UsageError
from waltz_env.types import AGENTS, CONVERSATION, AgentID, Observation, Trajectory
from waltz_env.views import FixedSpaces


class WaltzSafetyAECEnv(FixedSpaces, AECEnv[AgentID, Any, Any]):
    """The game of ``WaltzSafetyEnv``, which documents it, with one agent selected at a time: the one whose turn it is.

    As in every AEC environment, an agent's rewards add up until it is selected again, so the feedback agent receives
    its reward for an improvement after the revision. When the game has ended, both agents are selected once more and
    step with None.

    Args:
        *args: positional arguments of ``WaltzSafetyEnv``.
        **settings: its keyword arguments.
    """

    metadata: ClassVar[dict[str, Any]] = {**WaltzSafetyEnv.metadata, "is_parallelizable": False}  # type: ignore[misc]
    _parallel: ClassVar[Callable[..., Any]] = WaltzSafetyEnv

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._env = self._parallel(*args, **settings)
        self.possible_agents = self._env.possible_agents
        self.agents: list[AgentID] = []
        self.observation_spaces = self._env.observation_spaces
        self.action_spaces = self._env.action_spaces
        self.state_space = self._env.state_space
        self.render_mode = self._env.render_mode

    def reset(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> None:
        """Starts a game; arguments as for ``WaltzSafetyEnv.reset``."""
        self._observations, self.infos = self._env.reset(seed, options)
        self.agents = list(AGENTS)
        self.rewards = dict.fromkeys(AGENTS, 0.0)
        self._cumulative_rewards = dict.fromkeys(AGENTS, 0.0)
        self.terminations = dict.fromkeys(AGENTS, False)
        self.truncations = dict.fromkeys(AGENTS, False)
        self.agent_selection = CONVERSATION

    def step(self, action: str | int | None) -> None:
        """Plays the selected agent's turn.

        Args:
            action: text; a number in the discrete twin; None once the game has ended.

        Raises:
            UsageError: no game is running, or the game has ended and the action is not None.
            UsageTypeError: the action is not a string.
            JudgeError: the judge gave no verdict. The game is lost: call ``reset`` before the next step.
        """
        if not self.agents:
            raise UsageError("step() needs a running game: call reset() first.")
        acting = self.agent_selection
        if self.terminations[acting]:
            if action is not None:
                raise UsageError(f"The game has ended: {acting!r} steps with None now; then call reset().")
            self._was_dead_step(action)
            return
        self._observations, self.rewards, self.terminations, self.truncations, self.infos = self._env.step(
            {acting: action}
        )
        # In this order: the acting agent has just been shown its rewards; those of this step count from here on.
        self._cumulative_rewards[acting] = 0.0
        self._accumulate_rewards()
        self.agent_selection = self._env.turn or self.agents[0]

    def observe(self, agent: AgentID) -> Observation:
        """What ``agent`` sees now."""
        return self._observations[agent]

    def state(self) -> dict[str, Any]:  # type: ignore[override]  # as in WaltzSafetyEnv
        """The global state, as in ``WaltzSafetyEnv.state``."""
        return self._env.state()

    def trajectory(self) -> Trajectory:
        """The game so far, or the latest one, as in ``WaltzSafetyEnv.trajectory``."""
        return self._env.trajectory()

    def render(self) -> str | None:
        """Renders the game, as ``WaltzSafetyEnv.render`` does."""
        return self._env.render()

    def close(self) -> None:
        """Ends a running game. There is nothing else to release."""
        self._env.close()
        self.agents = []
