"""How do I train both agents with RLlib? ``ParallelPettingZooEnv`` around the environment, one module per agent.

PPO on the discrete twin, in this process and without a dashboard. RLlib asks both agents in every step; the idle
agent's action is ignored, and its observation says that it is idle. python examples/rllib_ppo.py
"""

from __future__ import annotations

import argparse
import os

# Read when Ray is imported: no usage report, no search for accelerators.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import numpy as np
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module import RLModule
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.tune.registry import register_env

import waltz_env
from waltz_env import AGENTS
from waltz_env.choice import Strategy, mean_returns, random_strategy


def config(seed: int) -> PPOConfig:
    """PPO in this process: no remote environments, no remote learners."""
    register_env("waltz", lambda settings: ParallelPettingZooEnv(waltz_env.make("WaltzSafetyChoice-v0", **settings)))
    modules = {agent: RLModuleSpec(model_config=DefaultModelConfig(fcnet_hiddens=[32, 32])) for agent in AGENTS}
    return (
        PPOConfig()
        .environment("waltz", env_config={"weights": "A"})
        .multi_agent(policies=set(AGENTS), policy_mapping_fn=lambda agent, episode, **_: agent)
        .rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=modules))
        .env_runners(num_env_runners=0, episodes_to_numpy=False)  # True converts all games of a batch again and again
        .learners(num_learners=0)
        .training(
            lr=3e-3,
            gamma=1.0,
            train_batch_size_per_learner=1000,
            minibatch_size=250,
            num_epochs=6,
            entropy_coeff=0.05,
            use_kl_loss=False,
        )
        .debugging(seed=seed, log_level="ERROR")
    )


def greedy(module: RLModule) -> Strategy:
    """The most probable action."""

    def act(observation: np.ndarray) -> int:
        out = module.forward_inference({Columns.OBS: torch.from_numpy(observation)[None]})
        return int(out[Columns.ACTION_DIST_INPUTS].argmax())

    return act


def main(iterations: int = 12, seed: int = 0) -> tuple[dict[str, float], dict[str, float]]:
    """Trains; returns each agent's mean return in a game under random play and after training."""
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    algorithm = config(seed).build_algo()
    for _ in range(iterations):
        algorithm.train()
    before = mean_returns(random_strategy(seed))
    after = mean_returns({agent: greedy(algorithm.get_module(agent)) for agent in AGENTS})
    algorithm.stop()
    ray.shutdown()
    for agent in AGENTS:
        print(f"{agent:15} mean return: random {before[agent]:.3f}, trained {after[agent]:.3f}")
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
