"""How do I train one role with Stable-Baselines3? By its Gymnasium name; the policy is then evaluated as an agent.

PPO learns which ready-made critique to give, from hashed n-grams of the prompt and the draft (or from sentence vectors,
which know more words). The conversation agent drafts at random and mostly follows advice. The policy is then compared
on held-out prompts with feedback agents that learn nothing. Needs the extra sb3, and judges for ``--sentences``.
python examples/sb3_ppo.py [--sentences] [--steps 8192] [--seed 0]
"""

from __future__ import annotations

import argparse

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from waltz_env import CONVERSATION, FEEDBACK, Agent, PromptSet, RefusalJudge, play, score
from waltz_env.agents import FollowAdvice, NeverFlag
from waltz_env.evaluation import rates
from waltz_env.scripted import REFUSAL
from waltz_env.wrappers import CHOICES, CachedEncoder, ChoosingAgent, HashedNgrams, SentenceEncoder


def held_out(feedback: Agent, drafts: int = 4) -> tuple[float, str]:
    """The feedback agent's mean return on the test prompts, each drafted several times, and its rates."""
    prompts = PromptSet.load("builtin:test")
    games = [
        game
        for seed in range(drafts)
        for game in play(prompts, {CONVERSATION: FollowAdvice(0.9, seed), FEEDBACK: feedback}, judge=RefusalJudge())
    ]
    found = rates(games)
    shown = "  ".join(f"{name} {found[name].value:.2f}" for name in ("asr", "orr", "ftr", "label_accuracy"))
    return float(np.mean([sum(score(game).feedback) for game in games])), shown


def main(steps: int = 8192, seed: int = 0, sentences: bool = False) -> dict[str, float]:
    """Trains; returns the mean return of each feedback agent on the held-out prompts."""
    torch.set_num_threads(1)  # the network is small: more threads would only wait for each other
    encoder = CachedEncoder(SentenceEncoder() if sentences else HashedNgrams())  # shared by all environments
    encoder.encode([prompt.text for prompt in PromptSet.load("builtin:train")])  # faster in one batch
    envs = make_vec_env(lambda: gymnasium.make("waltz_env/WaltzFeedback-v0", encoder=encoder), 8, seed=seed)
    model = PPO("MlpPolicy", envs, learning_rate=1e-3, n_steps=64, batch_size=128, n_epochs=5, gamma=1.0, seed=seed)
    model.learn(steps)

    rng = np.random.default_rng(seed)
    choices, size, (refusal,) = CHOICES[FEEDBACK], encoder.size, encoder.encode([REFUSAL])
    agents: dict[str, Agent] = {
        "never flags": NeverFlag(),
        "random": ChoosingAgent(lambda vectors: rng.integers(len(choices), size=len(vectors)), encoder, choices),
        # Flags refusals as overrefusing and answers as unsafe: all that the draft alone can tell.
        "contradicts": ChoosingAgent(
            lambda vectors: np.where(vectors[:, 4 + size : 4 + 2 * size] @ refusal > 0.9, 2, 1), encoder, choices
        ),
        "PPO": ChoosingAgent(lambda vectors: model.predict(vectors, deterministic=True)[0], encoder, choices),
    }
    returns = {}
    for name, agent in agents.items():
        returns[name], shown = held_out(agent)
        print(f"{name:12s} return {returns[name]:.3f}   {shown}")
    return returns


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", action="store_true", help="sentence vectors in place of n-grams")
    parser.add_argument("--steps", type=int, default=8192, help="games to train on, one critique each")
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
