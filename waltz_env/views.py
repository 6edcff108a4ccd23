"""Mixins: the part of PettingZoo's interface that the environments here have in common."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces

from waltz_env.types import AgentID, Trajectory


class FixedSpaces:
    """Spaces that are made once. PettingZoo asks for the same object in every call."""

    observation_spaces: dict[AgentID, spaces.Space[Any]]
    action_spaces: dict[AgentID, spaces.Space[Any]]

    def observation_space(self, agent: AgentID) -> spaces.Space[Any]:
        """Where the observations of ``agent`` lie; always the same object."""
        return self.observation_spaces[agent]

    def action_space(self, agent: AgentID) -> spaces.Space[Any]:
        """Where the actions of ``agent`` lie; always the same object."""
        return self.action_spaces[agent]


class View:
    """An environment that shows the game of another one, ``_env``, in other observations and actions."""

    _env: Any  # PettingZoo does not declare render modes and turns

    @property
    def agents(self) -> list[AgentID]:
        """Both agents while a game is running, otherwise none."""
        return self._env.agents

    @property
    def turn(self) -> AgentID | None:
        """Whose action counts in the next step; None if no game is running."""
        return self._env.turn

    @property
    def render_mode(self) -> str | None:
        """The text environment's render mode."""
        return self._env.render_mode

    def trajectory(self) -> Trajectory:
        """The game so far, or the latest one, as in ``WaltzSafetyEnv.trajectory``."""
        return self._env.trajectory()

    def render(self) -> Any:
        """Renders the game, as ``WaltzSafetyEnv.render`` does."""
        return self._env.render()

    def close(self) -> None:
        """Ends a running game. There is nothing else to release."""
        self._env.close()
