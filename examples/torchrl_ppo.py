"""How do I train both agents with TorchRL? ``PettingZooWrapper`` around the environment, one loss per agent.

PPO on the discrete twin. ``PettingZooWrapper`` turns every entry of an info into a tensor; ours hold more than numbers,
so they are dropped. Texts do not pass through it: see torchrl_text.py. python examples/torchrl_ppo.py
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch
from pettingzoo.utils import BaseParallelWrapper
from tensordict import TensorDictBase
from tensordict.nn import InteractionType, TensorDictModule, TensorDictSequential
from torch.distributions import Categorical
from torchrl.envs.libs.pettingzoo import PettingZooWrapper
from torchrl.modules import MLP, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import waltz_env
from waltz_env import AGENTS
from waltz_env.choice import FEATURES, Strategy, mean_returns, random_strategy

warnings.filterwarnings("ignore", message="PettingZoo in TorchRL is tested")
GROUPS = {agent: agent.rsplit("_", 1)[0] for agent in AGENTS}  # PettingZooWrapper calls conversation_0 conversation
ACTIVE = FEATURES.index("active")


class WithoutInfos(BaseParallelWrapper[str, Any, Any]):
    """The same environment with empty infos."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observations, infos = super().reset(seed, options)
        return observations, {agent: {} for agent in infos}

    def step(self, actions: dict[str, Any]) -> Any:
        *rest, infos = super().step(actions)
        return *rest, {agent: {} for agent in infos}


class Learner:
    """One agent's actor, critic and PPO update, under the keys of its group."""

    def __init__(self, group: str) -> None:
        self.group = group
        net, value = (MLP(in_features=len(FEATURES), out_features=n, num_cells=[32, 32]) for n in (4, 1))
        self.actor = ProbabilisticActor(
            TensorDictModule(net, in_keys=[(group, "observation")], out_keys=[(group, "logits")]),
            in_keys={"logits": (group, "logits")},
            out_keys=[(group, "action")],
            distribution_class=Categorical,
            default_interaction_type=InteractionType.RANDOM,  # default outside of collectors: most probable action
            return_log_prob=True,
            log_prob_key=(group, "log_prob"),
        )
        critic = ValueOperator(value, in_keys=[(group, "observation")], out_keys=[(group, "value")])
        self.loss = ClipPPOLoss(self.actor, critic, entropy_coeff=0.05, critic_coeff=0.5, normalize_advantage=True)
        self.gae = GAE(gamma=1.0, lmbda=0.95, value_network=critic)
        shared = {name: (group, name) for name in ("advantage", "value_target", "value")}
        self.loss.set_keys(action=(group, "action"), sample_log_prob=(group, "log_prob"), **shared)
        self.gae.set_keys(reward=(group, "reward"), done=(group, "done"), terminated=(group, "terminated"), **shared)
        self.optimizer = torch.optim.Adam(self.loss.parameters(), lr=3e-3)

    def update(self, steps: TensorDictBase, epochs: int = 6) -> None:
        """Learns from this agent's own turns in a rollout of shape (T,)."""
        with torch.no_grad():
            self.gae(steps)
        own = steps[steps[self.group, "observation"][:, 0, ACTIVE] == 1]
        for _ in range(epochs):
            for batch in own[torch.randperm(len(own))].split(200):
                losses = self.loss(batch)
                loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()

    def greedy(self) -> Strategy:
        """The most probable action."""
        return lambda observation: int(self.actor[0].module(torch.from_numpy(observation)).argmax())


def main(updates: int = 12, steps: int = 1000, seed: int = 0) -> tuple[dict[str, float], dict[str, float]]:
    """Trains; returns each agent's mean return in a game under random play and after training."""
    torch.manual_seed(seed)
    env = PettingZooWrapper(WithoutInfos(waltz_env.make("WaltzSafetyChoice-v0")), seed=seed)
    learners = {agent: Learner(group) for agent, group in GROUPS.items()}
    both = TensorDictSequential(*(learner.actor for learner in learners.values()))
    for _ in range(updates):
        with torch.no_grad():
            rollout = env.rollout(steps, both, break_when_any_done=False)  # one game after another
        for learner in learners.values():
            learner.update(rollout)
    before, after = (mean_returns(p) for p in (random_strategy(seed), {a: learners[a].greedy() for a in AGENTS}))
    for agent in AGENTS:
        print(f"{agent:15} mean return: random {before[agent]:.3f}, trained {after[agent]:.3f}")
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
