"""Makes three-step runs of the nano preset, one for each method and algorithm, and writes their metrics as JSON.

    python tests/recorded/nano.py FOLDER FILE.json

Record again only where a change of the numbers is meant, and say so in the commit.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from waltz_env.algorithms import train
from waltz_env.judges import load_judge
from waltz_env.presets import with_algorithm, with_learners, with_method, with_steps
from waltz_env.presets.nano.preset import RECIPE, build_workbench
from waltz_env.presets.nano.warm_start import NanoConfig
from waltz_env.run_folder import RunFolder
from waltz_env.types import FEEDBACK

SHORT = replace(with_steps(RECIPE, 1, 2), loop=replace(RECIPE.loop, games=24))
LATE = with_steps(SHORT, 0, 3)
ALIKE = with_learners(LATE, lambda *_: LATE.stages[-1].learners[FEEDBACK])  # one policy learns with one setting
ALGORITHMS = ("grpo", "dr-grpo", "rloo", "reinforce++-baseline", "ppo", "mappo", "role-baseline")
RECIPES = {
    "waltz": SHORT,
    "single-model": with_method(LATE, "single-model"),
    "feedback-only": with_method(SHORT, "feedback-only"),
    "shared-policy": replace(with_algorithm(ALIKE, "role-baseline"), shared_policy=True),
    **{name: with_algorithm(SHORT, name) for name in ALGORITHMS},
}


def main(folder: Path, out: Path) -> None:
    """Runs everything and writes ``out``: by name the metrics of each step, without what a clock measured."""
    torch.set_num_threads(1)
    build = partial(build_workbench, warm_start=NanoConfig(steps=120))
    recorded = {}
    first, *_ = RECIPES
    for name, recipe in RECIPES.items():
        run = RunFolder(folder / name)
        if name != first:
            shutil.copytree(RunFolder(folder / first).base, run.base)
        bench = build(recipe, run, Accelerator())
        train(
            bench.agents,
            recipe.stages,
            judge=load_judge(recipe.judge),
            prompts=bench.prompts,
            folder=run,
            config=recipe.loop,
            seed=recipe.seed,
        )
        recorded[name] = [
            {key: value for key, value in line.items() if "second" not in key} for line in run.read_metrics()
        ]
    out.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
