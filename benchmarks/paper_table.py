"""The paper's systems table and its ablations on a preset, over several seeds: does each claim of the paper hold here?

python benchmarks/paper_table.py --out runs/paper-table                       # the nano preset, seeds 0 to 4: hours
python benchmarks/paper_table.py --out runs/paper-table --seeds 3 4           # a part of it, beside another process
python benchmarks/paper_table.py --out runs/paper-table --only table          # what there is so far

Every run is one folder that is skipped when it is finished and continued when it is not. What runs share, the
warm-started model and stage 1, is made once a seed. The table goes to ``table.md`` and ``table.json``, the picture to
``plane.png``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from accelerate import Accelerator
from scipy.stats import t as student_t

from waltz_env.algorithms import checkpoint, train
from waltz_env.cli.results import add_systems, read_sets
from waltz_env.cli.systems import Systems, trained_systems, untrained_systems
from waltz_env.evaluation.request_classifier import RequestClassifier
from waltz_env.files import atomic_path
from waltz_env.presets import PRESETS, Recipe, Workbench, preset, workbench
from waltz_env.presets.run import load_weights
from waltz_env.rewards import SETUPS

METRICS = (
    "asr",
    "orr",
    "asr_first",
    "orr_first",
    "ftr",
    "ftr_plain",
    "label_accuracy",
    "format_rate",
    "improved",
    "worsened",
)
SHOWN = ("asr", "orr", "ftr", "ftr_plain", "label_accuracy", "improved")


def under(name: str) -> Callable[[Recipe], Recipe]:
    """The recipe with one reward set-up in both stages."""
    return lambda recipe: replace(recipe, stage_1_weights=SETUPS[name], stage_2_weights=SETUPS[name])


# Every run of the table, by the name of the system that it trains, in the order in which they are run.
RUNS: dict[str, Callable[[Recipe], Recipe]] = {
    "without_stage_2": lambda recipe: replace(recipe, stage_2_steps=0),
    "trained_pair": lambda recipe: recipe,
    "single_model_rl": lambda recipe: replace(recipe, method="single-model"),
    "set_up_a": under("A"),
    "set_up_b": under("B"),
    "set_up_c": under("C"),
    "without_stage_1": lambda recipe: replace(recipe, stage_1_steps=0),
    "dir_off": under("dir-off"),
    "feedback_only": lambda recipe: replace(recipe, method="feedback-only"),
    "drafts_only": lambda recipe: replace(recipe, loop=replace(recipe.loop, responses="drafts")),
    "revisions_only": lambda recipe: replace(recipe, loop=replace(recipe.loop, responses="revisions")),
    "rounds_2": lambda recipe: replace(recipe, max_rounds=2),
    "rounds_3": lambda recipe: replace(recipe, max_rounds=3),
}
# These begin with the weights of ``without_stage_2``, so that a seed's stage 1 (set-up A, T_max 1) is trained once.
AFTER_STAGE_1 = {
    "trained_pair",
    "set_up_a",
    "feedback_only",
    "drafts_only",
    "revisions_only",
    "rounds_2",
    "rounds_3",
}


def main() -> None:
    """Runs what is not there yet, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of all the runs")
    parser.add_argument("--preset", default="nano", choices=list(PRESETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=[*RUNS, "table"], help="the runs to do")
    options = parser.parse_args()
    for name in RUNS:
        for seed in options.seeds:
            if name in options.only:
                run(name, replace(preset(options.preset).recipe, seed=seed), options.out / f"seed-{seed}")
    found = collect(sorted(options.out.glob("seed-*")))
    write(found, options.out)


def run(name: str, recipe: Recipe, folder: Path) -> None:
    """One run of one seed, and, before the first of a seed, the systems that need no training."""
    accelerator = Accelerator()
    out = folder / name
    if read_sets(out):
        return
    recipe = RUNS[name](recipe)
    bench = workbench(recipe, folder, accelerator)
    guard = RequestClassifier(bench.prompts)
    if not read_sets(folder / "untrained"):
        play = lambda prompts: untrained_systems(bench.agents, bench.judge, prompts, guard=guard, oracle=True)  # noqa: E731
        report(folder / "untrained", bench, recipe, play)
    stages = recipe.stages()
    if name in AFTER_STAGE_1:
        load_weights(folder / "without_stage_2", bench)
        stages = stages[1:]
    train(
        bench.policies,
        bench.agents,
        judge=bench.judge,
        prompts=bench.prompts,
        stages=stages,
        folder=out,
        config=recipe.loop,
        seed=recipe.seed,
        accelerator=accelerator,
        resume=checkpoint.latest(out / "checkpoints") is not None,
    )
    report(out, bench, recipe, lambda prompts: trained_systems(recipe, bench.agents, bench.judge, prompts, guard=guard))


def report(folder: Path, bench: Workbench, recipe: Recipe, play: Callable[[Sequence[Any]], Systems]) -> None:
    """Plays every held-out set."""
    sets = {name: play(list(prompts) * recipe.test_samples) for name, prompts in bench.tests.items()}
    add_systems(folder, sets, {"preset": recipe.preset, "seed": recipe.seed, "samples_a_prompt": recipe.test_samples})


# Values by set, system and metric, one for each seed.
Found = dict[str, dict[str, dict[str, dict[int, float]]]]


def collect(seeds: Sequence[Path]) -> Found:
    """The rates of all finished runs; an ablation's trained pair stands under the name of its run."""
    found: Found = {}
    for folder in seeds:
        for name in ("untrained", *RUNS):
            for chosen, content in read_sets(folder / name).items():
                for system, metrics in content["systems"].items():
                    row = name if system in ("trained_pair", "feedback_only") else system
                    for metric in METRICS:
                        if metrics[metric]["value"] is not None:
                            values = found.setdefault(chosen, {}).setdefault(row, {}).setdefault(metric, {})
                            values[int(folder.name.removeprefix("seed-"))] = metrics[metric]["value"]
    return found


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % t interval; NaN for fewer than two values."""
    if len(values) < 2:
        return statistics.fmean(values), float("nan")
    half = student_t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), float(half)


def write(found: Found, out: Path) -> None:
    """``table.md``, ``table.json`` and ``plane.png``."""
    lines = []
    for chosen, systems in found.items():
        lines += [f"\n`{chosen}`, %, mean and 95 % interval over seeds\n", f"| system | seeds | {' | '.join(SHOWN)} |"]
        lines.append("|---" * (2 + len(SHOWN)) + "|")
        for system, metrics in systems.items():
            cells = [_cell(metrics.get(metric, {})) for metric in SHOWN]
            lines.append(f"| {system} | {len(metrics['asr'])} | {' | '.join(cells)} |")
        lines += ["\n| claim | difference, points | holds |", "|---|---|---|"]
        lines += [_claim_row(text, systems, *terms) for text, *terms in CLAIMS]
    table = "\n".join(lines) + "\n"
    print(table)
    with atomic_path(out / "table.md") as path:
        path.write_text(table, encoding="utf-8")
    with atomic_path(out / "table.json") as path:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found, out / "plane.png")


# Claims of arXiv:2510.08240, sec. 5, each as: this metric of the first system is below that of the second. ``sum`` is
# ASR + ORR.
CLAIMS = (
    ("a safeguard lowers the ASR of the baseline", "asr", "baseline_safeguard", "baseline"),
    ("... and raises its ORR", "orr", "baseline", "baseline_safeguard"),
    ("a safeguard lowers the ASR of single-model RL", "asr", "single_model_rl_safeguard", "single_model_rl"),
    ("... and raises its ORR", "orr", "single_model_rl", "single_model_rl_safeguard"),
    ("the untrained pair is better than the baseline (ASR + ORR)", "sum", "untrained_pair", "baseline"),
    ("training lowers FTR", "ftr", "trained_pair", "untrained_pair"),
    ("... on plain prompts too", "ftr_plain", "trained_pair", "untrained_pair"),
    ("the trained pair beats the baseline (ASR + ORR)", "sum", "trained_pair", "baseline"),
    ("... and the baseline with a safeguard", "sum", "trained_pair", "baseline_safeguard"),
    ("... and the untrained pair", "sum", "trained_pair", "untrained_pair"),
    ("... and the oracle's template sentence", "sum", "trained_pair", "oracle_feedback"),
    ("... and single-model RL", "sum", "trained_pair", "single_model_rl"),
    ("... and single-model RL with a safeguard", "sum", "trained_pair", "single_model_rl_safeguard"),
    ("label accuracy: set-up A above B", "label_accuracy", "set_up_b", "set_up_a"),
    ("label accuracy: set-up B above C", "label_accuracy", "set_up_c", "set_up_b"),
    ("without stage 2 ASR + ORR is higher", "sum", "trained_pair", "without_stage_2"),
    ("detailed feedback has a lower ORR than the oracle's template", "orr", "trained_pair", "oracle_feedback"),
)


def _claim_row(
    text: str, systems: Mapping[str, Mapping[str, Mapping[int, float]]], metric: str, low: str, high: str
) -> str:
    differences = _differences(systems, metric, low, high)
    if not differences:
        return f"| {text} | - | not run |"
    mean, half = mean_interval(differences)
    verdict = "yes" if mean + half < 0 else "no" if mean - half > 0 else "undecided"
    return f"| {text} | {100 * mean:+.1f} ± {100 * half:.1f} | {verdict} |"


def _differences(
    systems: Mapping[str, Mapping[str, Mapping[int, float]]], metric: str, low: str, high: str
) -> list[float]:
    """One a seed: seeds pair the systems."""
    names = ("asr", "orr") if metric == "sum" else (metric,)
    terms = [(systems.get(low, {}).get(name, {}), systems.get(high, {}).get(name, {})) for name in names]
    seeds = set.intersection(*(set(values) for pair in terms for values in pair))
    return [sum(ours[seed] - theirs[seed] for ours, theirs in terms) for seed in sorted(seeds)]


def _cell(values: Mapping[int, float]) -> str:
    if not values:
        return "-"
    mean, half = mean_interval(list(values.values()))
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


def draw(found: Found, path: Path) -> None:
    """The ASR-ORR plane of each set: the mean of each system as a dot, its seeds as small ones."""
    figure, panels = plt.subplots(1, len(found), figsize=(7 * len(found), 6), squeeze=False, layout="constrained")
    for axes, (chosen, systems) in zip(panels[0], found.items(), strict=True):
        for number, (system, metrics) in enumerate(systems.items()):
            seeds = sorted(metrics["asr"])
            asr, orr = ([100 * metrics[name][seed] for seed in seeds] for name in ("asr", "orr"))
            colour = plt.get_cmap("tab20")(number % 20)
            axes.scatter(asr, orr, s=9, color=colour, alpha=0.5)
            axes.scatter(
                statistics.fmean(asr),
                statistics.fmean(orr),
                s=60,
                color=colour,
                marker="osD^vP*X"[number % 8],
                label=system,
            )
        axes.set(title=chosen, xlabel="ASR, %", ylabel="ORR, %", xlim=(-1, None), ylim=(-1, None))
        axes.grid(alpha=0.3)
    panels[0][-1].legend(fontsize="small")
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")
    plt.close(figure)


if __name__ == "__main__":
    main()
