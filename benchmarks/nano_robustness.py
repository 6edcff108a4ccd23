"""How robust are the systems of the laboratory? Requests with one hop more than in training, and framings never seen.

python benchmarks/paper_table.py --out runs/paper-table
python benchmarks/nano_robustness.py runs/paper-table

Prints ASR and ORR of each system, mean and 95 % interval over seeds. The games are kept in seed-S/robustness, and are
not played again.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from waltz_env.evaluation.seeds import mean_interval
from waltz_env.experiments import evaluate
from waltz_env.experiments.evaluation import EvaluationConfig
from waltz_env.experiments.over_seeds import run_folder, seed_folder
from waltz_env.presets.nano import splits
from waltz_env.prompts import PromptSet
from waltz_env.run_folder import RunFolder

# The runs whose result is measured, and the folder of their base model.
RUNS = {"trained_pair": None, "dir_off": None, "single_model_rl": None, "single_model_thinking": "thinking"}
SETS = {"three-hops": splits.three_hops, "unseen-framings": splits.unseen_framings}


def main(out: Path) -> None:
    """Plays what has not been played, and prints the table."""
    torch.set_num_threads(1)
    seeds = sorted(int(path.name.removeprefix("seed-")) for path in out.glob("seed-*"))
    rates: dict[tuple[str, str], list[list[float]]] = {}
    for seed in seeds:
        for name, base in RUNS.items():
            run = run_folder(out, seed, name)
            if not run.weights.exists():
                continue
            if not run.base.exists():
                shared = seed_folder(out, seed) if base is None else run_folder(out, seed, base)
                shutil.copytree(shared.base, run.base)
            folder = RunFolder(seed_folder(out, seed).path / "robustness" / name)
            prompts = {each: PromptSet(split()) for each, split in SETS.items()}
            results = evaluate([run], folder, prompts=prompts, config=EvaluationConfig(samples=4, untrained=False))
            for each in SETS:
                (system,) = (known for known in results["sets"][each]["systems"] if not known.endswith("_safeguard"))
                found = results["sets"][each]["systems"][system]
                rates.setdefault((each, name), []).append([found[rate]["value"] or 0.0 for rate in ("asr", "orr")])
    print("| set | system | seeds | ASR, % | ORR, % |", "|---|---|---|---|---|", sep="\n")
    for each in SETS:
        for name in RUNS:
            values = rates.get((each, name), [])
            if values:
                print(f"| `{each}` | {name} | {len(values)} | {' | '.join(map(_cell, zip(*values, strict=True)))} |")


def _cell(values: tuple[float, ...]) -> str:
    found = mean_interval([100 * value for value in values])
    return f"{found.mean:.1f}" if found.n == 1 else f"{found.mean:.1f} ± {found.high - found.mean:.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of benchmarks/paper_table.py")
    main(parser.parse_args().out)
