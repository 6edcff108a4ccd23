"""Strategies to compare with in the discrete game, and what strategies earn in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from waltz_env.choice.dynamics import ConversationAction, FeedbackAction
from waltz_env.choice.env import FEATURES, WaltzSafetyChoiceEnv
from waltz_env.types import AGENTS, AgentID

Strategy = Callable[[NDArray[np.float32]], int]
"""A function from an observation, shape (7,) float32, to an action. The observation says which agent acts."""

IS_FEEDBACK, LOOKS_HARMFUL, REFUSES, ADVICE, READING = map(
    FEATURES.index, ["is_feedback", "looks_harmful", "refuses", "advice", "reading"]
)


def solution(observation: NDArray[np.float32]) -> int:
    """The strategy of both agents from which neither gains by deviating (docs/choice.md).

    This holds for set-ups A, C and dir-off with one round. The conversation agent goes by the look of the prompt, then
    follows the advice. The feedback agent goes by its reading and flags a response that does not fit.
    """
    if not observation[IS_FEEDBACK]:
        if observation[ADVICE]:
            return ConversationAction.FOLLOW
        return ConversationAction.REFUSE if observation[LOOKS_HARMFUL] > 0 else ConversationAction.ANSWER
    if observation[REFUSES] == observation[READING]:
        return FeedbackAction.PASS
    return FeedbackAction.FLAG_OVERREFUSE if observation[REFUSES] > 0 else FeedbackAction.FLAG_UNSAFE


def never_flag(observation: NDArray[np.float32]) -> int:
    """The solution's conversation agent alone: the feedback agent passes everything."""
    return FeedbackAction.PASS if observation[IS_FEEDBACK] else solution(observation)


def random_strategy(seed: int = 0) -> Strategy:
    """Returns a strategy that chooses uniformly at random."""
    rng = np.random.default_rng(seed)
    return lambda _: int(rng.integers(len(FeedbackAction)))  # both agents have the same number of actions


def mean_returns(
    strategies: Strategy | Mapping[AgentID, Strategy],
    *,
    games: int = 2000,
    seed: int = 0,
    env: WaltzSafetyChoiceEnv | None = None,
) -> dict[AgentID, float]:
    """Returns what each agent earns per game, averaged over ``games``; with 2,000 games the standard error is .01.

    Args:
        strategies: one strategy per agent, or one for both.
        games: number of games to play.
        seed: seeds the environment.
        env: the environment; None makes one with default settings.
    """
    env = WaltzSafetyChoiceEnv() if env is None else env
    by_agent = dict.fromkeys(AGENTS, strategies) if callable(strategies) else strategies
    totals = dict.fromkeys(AGENTS, 0.0)
    observations, _ = env.reset(seed=seed)
    for _ in range(games):
        while (turn := env.turn) is not None:
            observations, rewards, *_ = env.step({turn: by_agent[turn](observations[turn])})
            for agent in AGENTS:
                totals[agent] += rewards[agent]
        observations, _ = env.reset()
    return {agent: total / games for agent, total in totals.items()}
