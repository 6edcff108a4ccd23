"""One game in an event loop that belongs to another trainer, which samples one request at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from waltz_env.errors import JudgeError
from waltz_env.game import Game
from waltz_env.judging import judge_games
from waltz_env.protocols import Judge
from waltz_env.rewards import SETUP_A, Rewards, RewardWeights, score
from waltz_env.rules import Rules
from waltz_env.types import CONVERSATION, AgentID, Completion, NoVerdict, Observation, Prompt, Trajectory

Ask = Callable[[Observation], Awaitable[Completion]]
"""Samples one action of an agent."""


async def play_one(
    prompt: Prompt,
    ask: Mapping[AgentID, Ask],
    *,
    judge: Judge,
    weights: RewardWeights = SETUP_A,
    rules: Rules = Rules(),
) -> tuple[Trajectory, Rewards]:
    """Play, judge and score one game; the judge works in a thread.

    Args:
        prompt: what the user asks.
        ask: how each role is sampled. Its errors end the game and reach the caller.
        judge: labels all responses at the end, in one batch.
        weights: of the feedback agent's reward.
        rules: rules of the game.

    Returns:
        The game and its rewards; see ``samples_of``.

    Raises:
        JudgeError: the judge has no verdict on a response, so nothing can be scored.
    """
    game = Game(prompt, rules)
    while game.turn is not None:
        game.act(await ask[game.turn](game.observe(game.turn)))
    (played,) = await asyncio.to_thread(judge_games, [game.trajectory()], judge)
    for response in played.responses:
        if isinstance(response.judgement, NoVerdict):
            raise JudgeError(f"The game on {prompt.id!r} cannot be scored: {response.judgement.reason}")
    return played, score(played, weights)


def samples_of(agent: AgentID, game: Trajectory, *, rewards: Rewards) -> list[tuple[Completion, float]]:
    """Each action of ``agent`` with its reward, in order."""
    responses = [response.completion for response in game.responses]
    critiques = [critique.completion for critique in game.critiques]
    return list(zip(responses if agent == CONVERSATION else critiques, rewards.of(agent), strict=True))
