"""Draws each algorithm's learning curve over the seeds of a `waltz benchmark`, with the others in gray behind it.

waltz benchmark --preset nano --steps 20 18 --seeds 5 --out runs/benchmark
python benchmarks/learning_curves.py runs/benchmark/benchmark.json --out docs/images
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from waltz_env.experiments.benchmark_table import read_rows


def main() -> None:
    """Writes ``curve-ALGORITHM.png`` for each algorithm in the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="benchmark.json")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    options = parser.parse_args()
    rows = read_rows(options.rows)
    games = rows[0]["games_a_step"]
    curves: dict[str, list[list[float]]] = {}
    for row in rows:
        curves.setdefault(row["algorithm"], []).append(row["curve"])
    options.out.mkdir(parents=True, exist_ok=True)
    for name, seeds in curves.items():
        figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
        x = (np.arange(len(seeds[0])) + 1) * games
        for other in curves:
            axes.plot(x, np.mean(curves[other], axis=0), color="0.8", linewidth=0.8)
        for seed in seeds:
            axes.plot(x, seed, color="tab:blue", linewidth=0.6, alpha=0.5)
        axes.plot(x, np.mean(seeds, axis=0), color="tab:blue", linewidth=2, label=f"{name}: mean of {len(seeds)} seeds")
        axes.set(xlabel="training games", ylabel="R_c of final responses")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize="small")
        path = options.out / f"curve-{name.replace('+', 'p').replace(':', '.')}.png"
        figure.savefig(path, dpi=100)
        plt.close(figure)
        print(path)


if __name__ == "__main__":
    main()
