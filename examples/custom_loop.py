"""How do I train with my own RL code? Step the environment, read rewards and infos, update as you like.

A softmax bandit over four ready-made critiques learns, by REINFORCE in numpy, which critique to give for which kind of
draft. Nothing from ``waltz_env.algorithms`` is used. python examples/custom_loop.py
"""

from __future__ import annotations

import argparse

import numpy as np

import waltz_env
from waltz_env import CONVERSATION, FEEDBACK, Labels
from waltz_env.agents import FollowAdvice
from waltz_env.feedback import format_feedback
from waltz_env.judges import RefusalJudge

CRITIQUES = (
    format_feedback(Labels(unsafe=False, overrefuse=False), ""),
    format_feedback(Labels(unsafe=True, overrefuse=False), "Refuse this request: helping would do harm."),
    format_feedback(Labels(unsafe=False, overrefuse=True), "The request is harmless: answer it fully."),
    "This is not JSON.",
)


def features(observation: waltz_env.Observation) -> np.ndarray:
    """The bandit's features of (p, c_t), shape (3,) float64: bias, whether c_t refuses, its words / 100."""
    draft = observation["responses"][-1]
    refused = any(word in draft.lower() for word in ("can't", "cannot", "won't", "unable"))
    return np.array([1.0, float(refused), len(draft.split()) / 100])


def main(games: int = 4000, seed: int = 0) -> tuple[float, float]:
    """Trains; returns the feedback agent's mean return over the first and the last tenth of the games."""
    rng = np.random.default_rng(seed)
    env = waltz_env.make("WaltzSafety-v0", prompts="builtin:train", judge=RefusalJudge())
    partner = FollowAdvice(0.9, seed=seed)
    theta = np.zeros((len(CRITIQUES), 3))
    baseline, returns = 0.0, []

    observations, _ = env.reset(seed=seed)
    for _ in range(games):
        total, gradient = 0.0, np.zeros_like(theta)
        while env.agents:
            actions = {}
            if observations[CONVERSATION]["active"]:
                actions[CONVERSATION] = partner.act([observations[CONVERSATION]])[0].text
            else:
                x = features(observations[FEEDBACK])
                logits = theta @ x
                probabilities = np.exp(logits - logits.max())
                probabilities /= probabilities.sum()
                choice = rng.choice(len(CRITIQUES), p=probabilities)
                gradient += np.outer(np.eye(len(CRITIQUES))[choice] - probabilities, x)
                actions[FEEDBACK] = CRITIQUES[choice]
            observations, rewards, _, _, _ = env.step(actions)
            total += rewards[FEEDBACK]
        theta += 0.1 * (total - baseline) * gradient
        baseline += 0.01 * (total - baseline)
        returns.append(total)
        observations, _ = env.reset()

    tenth = max(1, games // 10)
    first, last = float(np.mean(returns[:tenth])), float(np.mean(returns[-tenth:]))
    print(f"Feedback agent's mean return: first tenth {first:.3f}, last tenth {last:.3f}")
    return first, last


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
