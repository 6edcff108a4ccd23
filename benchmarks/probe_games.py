"""How fast does each included algorithm solve the probe games? Writes the picture of docs/algorithms.

Every algorithm learns the four games of ``waltz_env.algorithms.probes.games`` with its default settings, except for the
learning rates, which suit a table of logits. Each line is the mean reward per step over seeds.

    python benchmarks/probe_games.py --seeds 3 --to docs/images/probe-games.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from waltz_env.algorithms.critic import CriticConfig
from waltz_env.algorithms.probes.games import TOKEN_PROBES, final_reward, learn_to_waltz, learn_tokens
from waltz_env.algorithms.registry import ALGORITHMS, algorithm, settings_of, with_settings

SOLVED = 0.9


def main() -> None:
    """Trains, prints how many updates each algorithm needs, and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--to", type=Path, default=Path("docs/images/probe-games.png"))
    arguments = parser.parse_args()
    games = [*TOKEN_PROBES, "feedback helps", "feedback helps, one policy"]
    figure, panels = plt.subplots(1, len(games), figsize=(3.4 * len(games), 3.2), sharey=True, layout="constrained")
    print(f"{'updates to reach ' + str(SOLVED):22}", *(f"{game:>26}" for game in games))
    for name in ALGORITHMS:
        curves = [np.mean([learn(name, game, seed) for seed in range(arguments.seeds)], axis=0) for game in games]
        print(f"{name:22}", *(f"{first_above(curve):>26}" for curve in curves), flush=True)
        for panel, curve in zip(panels, curves, strict=True):
            panel.plot(np.convolve(curve, np.ones(3) / 3, mode="valid"), label=name, linewidth=1.2)
    for panel, game in zip(panels, games, strict=True):
        panel.set(title=game, xlabel="update", ylim=(0, 1.02))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("mean reward")
    panels[0].legend(fontsize=7)
    arguments.to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.to, dpi=110)


def learn(name: str, game: str, seed: int) -> list[float]:
    """Mean reward per step."""
    config = algorithm(name, learning_rate=0.1)
    if "critic" in settings_of(config):
        config = with_settings(config, critic=CriticConfig(learning_rate=0.03, epochs=5))
    if game in TOKEN_PROBES:
        return learn_tokens(config, TOKEN_PROBES[game], seed=seed)
    return [final_reward(games) for games in learn_to_waltz(config, shared="one policy" in game, seed=seed)]


def first_above(curve: np.ndarray[Any, Any]) -> str:
    """The first update after which the mean of three steps is above ``SOLVED``."""
    above = np.flatnonzero(np.convolve(curve, np.ones(3) / 3, mode="valid") > SOLVED)
    return str(above[0]) if len(above) else "-"


if __name__ == "__main__":
    main()
