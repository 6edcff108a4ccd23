"""Makes three-step runs of the nano preset, one for each method and algorithm, and writes their metrics as JSON.

    python tests/recorded/nano.py FOLDER FILE.json

Record again only where a change of the numbers is meant, and say so in the commit.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from waltz_env.algorithms import train
from waltz_env.algorithms.training.run_log import read_metrics
from waltz_env.presets import workbench
from waltz_env.presets.nano.preset import BASE, RECIPE
from waltz_env.presets.nano.warm_start import NanoConfig, build

WARM_START = NanoConfig(steps=120)
SHORT = replace(RECIPE, stage_1_steps=1, stage_2_steps=2, loop=replace(RECIPE.loop, games=24))
ALGORITHMS = ("grpo", "dr-grpo", "rloo", "reinforce++-baseline", "ppo", "mappo", "role-baseline")
RECIPES = {
    "waltz": SHORT,
    "single-model": replace(SHORT, method="single-model", stage_2_steps=3),
    "feedback-only": replace(SHORT, method="feedback-only"),
    "shared-policy": replace(SHORT, algorithm="role-baseline", shared_policy=True, stage_1_steps=0, stage_2_steps=3),
    **{name: replace(SHORT, algorithm=name) for name in ALGORITHMS},
}


def main(folder: Path, out: Path) -> None:
    """Runs everything and writes ``out``: by name the metrics of each step, without what a clock measured."""
    torch.set_num_threads(1)
    model, tokenizer = build(0, WARM_START)
    model.save_pretrained(folder / BASE)
    tokenizer.save_pretrained(folder / BASE)
    recorded = {}
    for name, recipe in RECIPES.items():
        shutil.copytree(folder / BASE, folder / name / BASE)
        bench = workbench(recipe, folder / name, Accelerator())
        train(
            bench.policies,
            bench.agents,
            judge=bench.judge,
            prompts=bench.prompts,
            stages=recipe.stages(),
            folder=folder / name,
            config=recipe.loop,
            seed=recipe.seed,
        )
        recorded[name] = [
            {key: value for key, value in line.items() if "second" not in key} for line in read_metrics(folder / name)
        ]
    out.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
