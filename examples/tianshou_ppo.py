"""How do I train both agents with Tianshou? In turns: one learns while the other's policy stays fixed.

PPO on the discrete twin. Tianshou's own multi-agent class credits an agent only with rewards from its own turns. But
the feedback agent is paid for an improvement after the other agent has revised. Here, each agent therefore gets a
Gymnasium view of the game in which a step lasts until its next turn. python examples/tianshou_ppo.py
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium
import numpy as np
import torch
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

from waltz_env import AGENTS, CONVERSATION, FEEDBACK, AgentID
from waltz_env.choice import ConversationAction, WaltzSafetyChoiceEnv, mean_returns, random_strategy


class Seat(gymnasium.Env[np.ndarray, int]):
    """The discrete twin as ``agent`` sees it; the other agent plays its policy. A step earns all it led to."""

    def __init__(self, agent: AgentID, policies: dict[AgentID, DiscreteActorPolicy]) -> None:
        self.game = WaltzSafetyChoiceEnv()
        self.agent, self.policies = agent, policies
        self.observation_space, self.action_space = self.game.observation_space(agent), self.game.action_space(agent)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self.seen, _ = self.game.reset(seed, options)
        self._others_play()
        return self.seen[self.agent], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.seen, rewards, *_ = self.game.step({self.agent: action})
        reward = rewards[self.agent] + self._others_play()
        return self.seen[self.agent], reward, self.game.turn is None, False, {}

    def _others_play(self) -> float:
        earned = 0.0
        while (turn := self.game.turn) not in (None, self.agent):
            action = self.policies[turn].compute_action(self.seen[turn])
            self.seen, rewards, *_ = self.game.step({turn: action})
            earned += rewards[self.agent]
        return earned


def learner() -> PPO:
    """PPO whose actor and critic have separate networks."""
    game = WaltzSafetyChoiceEnv()
    observation_space, action_space = game.observation_space(CONVERSATION), game.action_space(CONVERSATION)
    actor_net, critic_net = (Net(state_shape=observation_space.shape, hidden_sizes=[32, 32]) for _ in range(2))
    actor = DiscreteActor(preprocess_net=actor_net, action_shape=len(ConversationAction), softmax_output=False)
    policy = DiscreteActorPolicy(actor=actor, action_space=action_space, observation_space=observation_space)
    critic = DiscreteCritic(preprocess_net=critic_net)
    return PPO(policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=3e-3), gamma=1.0, ent_coef=0.01)


def main(rounds: int = 4, steps: int = 2000, seed: int = 0) -> tuple[dict[str, float], dict[str, float]]:
    """Trains; returns each agent's mean return in a game under random play and after training."""
    torch.manual_seed(seed)
    learners = {agent: learner() for agent in AGENTS}
    policies = {agent: each.policy for agent, each in learners.items()}
    collectors = {}
    for agent in AGENTS:
        games = DummyVectorEnv([lambda agent=agent: Seat(agent, policies) for _ in range(10)])
        games.seed(seed)
        collectors[agent] = Collector(learners[agent], games, VectorReplayBuffer(2000, 10))
    for _ in range(rounds):
        for agent in (FEEDBACK, CONVERSATION):  # advice must be worth following before an agent can learn to follow it
            params = OnPolicyTrainerParams(
                training_collector=collectors[agent],
                max_epochs=1,
                epoch_num_steps=steps,
                collection_step_num_env_steps=500,
                batch_size=250,
                update_step_num_repetitions=6,
                verbose=False,
            )
            learners[agent].run_training(params)
    for policy in policies.values():
        policy.deterministic_eval = True
    before, after = (mean_returns(p) for p in (random_strategy(seed), {a: policies[a].compute_action for a in AGENTS}))
    for agent in AGENTS:
        print(f"{agent:15} mean return: random {before[agent]:.3f}, trained {after[agent]:.3f}")
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
