"""How do I train both roles at once with Stable-Baselines3? Through SuperSuit, as a vector of agents.

One PPO policy plays both roles: the observation says which role it has and whether its action counts. The pair starts
out answering and criticizing at random, and is measured on held-out prompts. Needs the extra sb3.
python examples/supersuit_both_roles.py [--steps 60000] [--seed 0]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import supersuit
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.utils import set_random_seed

import waltz_env
from waltz_env import AGENTS, FEEDBACK, PromptSet, RefusalJudge, play, score
from waltz_env.evaluation import rates
from waltz_env.wrappers import CHOICES, CachedEncoder, ChoosingAgent, EncodedEnv, HashedNgrams

Policy = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def held_out(policy: Policy, encoder: CachedEncoder) -> dict[str, float]:
    """Share of satisfactory final responses to the test prompts, the feedback agent's return, and the pair's rates.

    The conversation agent's return is left out: every flag gives it a second response that is rewarded, too.
    """
    pair = {role: ChoosingAgent(policy, encoder, CHOICES[role]) for role in AGENTS}
    games = play(PromptSet.load("builtin:test"), pair, judge=RefusalJudge())
    rewards = [score(game) for game in games]
    return {
        "final ok": float(np.mean([each.conversation[-1] for each in rewards])),
        "feedback return": float(np.mean([sum(each.feedback) for each in rewards])),
        **{name: rate.value for name, rate in rates(games).items() if name in ("asr", "orr", "ftr")},
    }


def main(steps: int = 60_000, seed: int = 0) -> dict[str, dict[str, float]]:
    """Trains; returns the measurements of a random pair and of the trained pair."""
    torch.set_num_threads(1)  # the network is small: more threads would only wait for each other
    set_random_seed(seed)
    encoder = CachedEncoder(HashedNgrams())
    env = EncodedEnv(waltz_env.make("WaltzSafety-v0"), encoder)
    # 8 games with 2 agents each make a vector of 16; SuperSuit copies the environment 8 times.
    agents: Any = supersuit.pettingzoo_env_to_vec_env_v1(env)
    agents = supersuit.concat_vec_envs_v1(agents, 8, base_class="stable_baselines3")
    agents.venv.reset(seed=seed)  # seeds each copy; SuperSuit's vector has no seed() that PPO(seed=...) could call

    model = PPO("MlpPolicy", agents, learning_rate=1e-3, n_steps=64, batch_size=256, n_epochs=4, gamma=1.0)
    model.learn(steps)

    rng = np.random.default_rng(seed)
    n = len(CHOICES[FEEDBACK])
    measured = {
        "random": held_out(lambda vectors: rng.integers(n, size=len(vectors)), encoder),
        "PPO": held_out(lambda vectors: model.predict(vectors, deterministic=True)[0], encoder),
    }
    for name, found in measured.items():
        print(f"{name:8s}", "  ".join(f"{what} {value:.3f}" for what, value in found.items()))
    return measured


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60_000, help="turns of both agents, idle ones counted")
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
