"""How do I train both agents with AgileRL? Its IPPO acts in many games at once and learns from the results.

PPO on the discrete twin, with one actor and one critic per agent. Only ``IPPO`` itself is used: AgileRL's trainer runs
games in separate processes, and this game is too fast to gain from that. python examples/agilerl_ppo.py
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from typing import Any

os.environ.setdefault("WANDB_MODE", "disabled")

import numpy as np
import torch
from agilerl.algorithms import IPPO
from numpy.typing import NDArray

from waltz_env import AGENTS, AgentID
from waltz_env.choice import Strategy, WaltzSafetyChoiceEnv, mean_returns, random_strategy

Arrays = dict[AgentID, NDArray[Any]]


class Games:
    """Games played side by side; a finished game starts again. Every array has the shape (games, ...)."""

    def __init__(self, count: int, seed: int) -> None:
        self.games = [WaltzSafetyChoiceEnv() for _ in range(count)]
        self.seen = _stacked([game.reset(seed=seed + i)[0] for i, game in enumerate(self.games)])

    def step(self, actions: Arrays) -> tuple[Arrays, Arrays]:
        """Returns rewards and whether each game ended; ``seen`` then holds the next observations."""
        seen, rewards, ended = [], [], []
        for i, game in enumerate(self.games):
            observations, reward, termination, _, _ = game.step({agent: int(actions[agent][i]) for agent in AGENTS})
            rewards.append(reward)
            ended.append(termination)
            seen.append(observations if game.turn is not None else game.reset()[0])
        self.seen = _stacked(seen)
        return _stacked(rewards), _stacked(ended)


def _stacked(dicts: list[dict[AgentID, Any]]) -> Arrays:
    return {agent: np.stack([np.asarray(each[agent], np.float32) for each in dicts]) for agent in AGENTS}


def rollout(learner: IPPO, games: Games, steps: int) -> tuple[dict[str, Any], ...]:
    """The arguments of ``IPPO.learn``: lists over time per agent, then the last observations and ends."""
    fields = ["states", "actions", "log_probs", "rewards", "dones", "values"]
    experiences: dict[str, dict[AgentID, list[NDArray[Any]]]] = {name: defaultdict(list) for name in fields}
    done = {agent: np.zeros(len(games.games), np.float32) for agent in AGENTS}
    for _ in range(steps):
        seen = games.seen
        actions, log_probs, _, values = learner.get_action(seen)
        rewards, ended = games.step(actions)
        for name, field in zip(fields, (seen, actions, log_probs, rewards, done, values), strict=True):
            for agent in AGENTS:
                experiences[name][agent].append(field[agent])
        done = ended
    return *(dict(experiences[name]) for name in fields), games.seen, done


def greedy(learner: IPPO, agent: AgentID) -> Strategy:
    """The most probable action."""

    def act(observation: NDArray[np.float32]) -> int:
        actor = learner.actors[agent]
        with torch.no_grad():
            actor(torch.from_numpy(observation).expand(4, -1))
            return int(actor.action_log_prob(torch.arange(4)).argmax())

    return act


def main(updates: int = 15, count: int = 32, seed: int = 0) -> tuple[dict[str, float], dict[str, float]]:
    """Trains; returns each agent's mean return in a game under random play and after training."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  AgileRL shuffles with this generator
    games = Games(count, seed)
    learner = IPPO(
        observation_spaces=[games.games[0].observation_space(agent) for agent in AGENTS],
        action_spaces=[games.games[0].action_space(agent) for agent in AGENTS],
        agent_ids=list(AGENTS),
        batch_size=250,
        lr=3e-3,
        gamma=1.0,
        ent_coef=0.05,
        update_epochs=6,
    )
    for _ in range(updates):
        learner.learn(rollout(learner, games, steps=1600 // count))
    before, after = (mean_returns(p) for p in (random_strategy(seed), {a: greedy(learner, a) for a in AGENTS}))
    for agent in AGENTS:
        print(f"{agent:15} mean return: random {before[agent]:.3f}, trained {after[agent]:.3f}")
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
