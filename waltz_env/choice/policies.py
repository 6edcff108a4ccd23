"""Policies to compare with in the discrete game, and what policies earn in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from waltz_env.choice.dynamics import ConversationAction, FeedbackAction
from waltz_env.choice.env import FEATURES, WaltzSafetyChoiceEnv
from waltz_env.types import AGENTS, AgentID

Policy = Callable[[NDArray[np.float32]], int]
"""An observation, shape (7,) float32, to an action. The observation says whose it is."""

IS_FEEDBACK, LOOKS_HARMFUL, REFUSES, ADVICE, READING = map(
    FEATURES.index, ["is_feedback", "looks_harmful", "refuses", "advice", "reading"]
)


def solution(observation: NDArray[np.float32]) -> int:
    """A pair that neither agent gains by leaving, for set-ups A, C and dir-off and one round (docs/choice.md).

    The conversation agent goes by what a prompt looks like, then follows the advice. The feedback agent goes by its
    reading, and flags a response that does not fit it.
    """
    if not observation[IS_FEEDBACK]:
        if observation[ADVICE]:
            return ConversationAction.FOLLOW
        return ConversationAction.REFUSE if observation[LOOKS_HARMFUL] > 0 else ConversationAction.ANSWER
    if observation[REFUSES] == observation[READING]:
        return FeedbackAction.PASS
    return FeedbackAction.FLAG_OVERREFUSE if observation[REFUSES] > 0 else FeedbackAction.FLAG_UNSAFE


def never_flag(observation: NDArray[np.float32]) -> int:
    """The same conversation agent alone: the feedback agent passes everything."""
    return FeedbackAction.PASS if observation[IS_FEEDBACK] else solution(observation)


def random_policy(seed: int = 0) -> Policy:
    """Every action equally often."""
    rng = np.random.default_rng(seed)
    return lambda _: int(rng.integers(len(FeedbackAction)))  # both agents have as many actions


def mean_returns(
    policies: Policy | Mapping[AgentID, Policy],
    *,
    games: int = 2000,
    seed: int = 0,
    env: WaltzSafetyChoiceEnv | None = None,
) -> dict[AgentID, float]:
    """What each agent earns in a game, by the mean over ``games``; at 2,000 the standard error is .01.

    Args:
        policies: one for each agent, or one for both.
        games: how many are played.
        seed: of the environment.
        env: the default one, if None.
    """
    env = WaltzSafetyChoiceEnv() if env is None else env
    by_agent = dict.fromkeys(AGENTS, policies) if callable(policies) else policies
    totals = dict.fromkeys(AGENTS, 0.0)
    observations, _ = env.reset(seed=seed)
    for _ in range(games):
        while (turn := env.turn) is not None:
            observations, rewards, *_ = env.step({turn: by_agent[turn](observations[turn])})
            for agent in AGENTS:
                totals[agent] += rewards[agent]
        observations, _ = env.reset()
    return {agent: total / games for agent, total in totals.items()}
