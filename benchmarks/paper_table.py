"""The paper's systems table and its ablations on a preset, over several seeds: does each claim of the paper hold here?

python benchmarks/paper_table.py --out runs/paper-table                       # the nano preset, seeds 0 to 4: hours
python benchmarks/paper_table.py --out runs/paper-table --seeds 3 4           # some seeds, beside another process
python benchmarks/paper_table.py --out /shared/paper-table --ray auto         # on a Ray cluster, see docs/scale.md
python benchmarks/paper_table.py --out runs/paper-table --only table          # the runs finished so far

Each run has a folder; finished runs are skipped and unfinished ones continued. The warm-started model and stage 1,
which runs share, are made once per seed. The table goes to ``table.md`` and ``table.json``, the picture to
``plane.png``. A run's rates are those of the judge that it was trained with, without its noise; ``waltz rejudge`` gives
those of ``refusals_judge`` under the judge ``task``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from waltz_env.algorithms.training.samples import Responses
from waltz_env.cli.progress import StepBar
from waltz_env.errors import UsageError
from waltz_env.evaluation.seeds import MeanInterval, mean_interval, paired_interval
from waltz_env.experiments.executors import executor
from waltz_env.experiments.jobs import Job, run_jobs
from waltz_env.experiments.over_seeds import UNTRAINED, Rates, collect
from waltz_env.files import atomic_path, writable_folder
from waltz_env.presets import (
    PRESETS,
    Recipe,
    preset,
    with_algorithm,
    with_learners,
    with_method,
    with_stages,
    with_steps,
)
from waltz_env.presets.nano.preset import NanoOptions
from waltz_env.rewards import SETUPS
from waltz_env.rules import Rules
from waltz_env.types import FEEDBACK

PRICES = (0.001, 0.003, 0.01)  # per token of a critique
SHOWN = ("asr", "orr", "ftr", "ftr_plain", "label_accuracy", "improved")


def under(name: str) -> Callable[[Recipe], Recipe]:
    """The recipe with one reward set-up in both stages."""
    return lambda recipe: with_stages(recipe, weights=SETUPS[name])


def with_responses(recipe: Recipe, responses: Responses) -> Recipe:
    """The recipe whose conversation agent learns from these responses alone."""
    return replace(recipe, loop=replace(recipe.loop, samples=replace(recipe.loop.samples, responses=responses)))


def with_judge(name: str) -> Callable[[Recipe], Recipe]:
    """The recipe that trains with another judge; without its noise, that judge also tests."""
    return lambda recipe: replace(recipe, judge=name)


def without_stage(number: int) -> Callable[[Recipe], Recipe]:
    """The recipe with no steps in one of its two stages."""
    return lambda recipe: with_steps(
        recipe, *(0 if i == number else stage.steps for i, stage in enumerate(recipe.stages, start=1))
    )


def with_shared_policy(recipe: Recipe) -> Recipe:
    """One policy for both roles, with the settings that the feedback agent has in stage 2."""
    settings = recipe.stages[-1].learners[FEEDBACK]
    recipe = with_algorithm(with_learners(without_stage(1)(recipe), lambda *_: settings), "role-baseline")
    return replace(recipe, shared_policy=True)


def as_long_as_the_pair(recipe: Recipe) -> Recipe:
    """Single-model RL for as many steps, and so for as many games and updates, as both stages of the pair."""
    return with_steps(with_method(recipe, "single-model"), sum(stage.steps for stage in recipe.stages))


def with_thinking(recipe: Recipe) -> Recipe:
    """The recipe whose conversation agent thinks in private before it answers, on a preset that offers that."""
    if not isinstance(recipe.options, NanoOptions):
        raise UsageError(f"The preset {recipe.preset} has no conversation agent that thinks; leave these runs out.")
    return replace(recipe, options=replace(recipe.options, thinking=True))


def with_price(price: float) -> Callable[[Recipe], Recipe]:
    """The recipe whose stage 2 charges the feedback agent for each token of a critique."""

    def priced(recipe: Recipe) -> Recipe:
        *first, last = recipe.stages
        return replace(recipe, stages=(*first, replace(last, weights=replace(last.weights, length=price))))

    return priced


# Every run of the table by the name of the system it trains, in the order of execution.
RUNS: dict[str, Callable[[Recipe], Recipe]] = {
    "without_stage_2": without_stage(2),
    "trained_pair": lambda recipe: recipe,
    "single_model_rl": lambda recipe: with_method(recipe, "single-model"),
    "single_model_long": as_long_as_the_pair,
    "single_model_thinking": lambda recipe: with_method(with_thinking(recipe), "single-model"),
    "pair_thinking": with_thinking,
    "set_up_a": under("A"),
    "set_up_b": under("B"),
    "set_up_c": under("C"),
    "without_stage_1": without_stage(1),
    "dir_off": under("dir-off"),
    "feedback_only": lambda recipe: with_method(recipe, "feedback-only"),
    "drafts_only": lambda recipe: with_responses(recipe, "drafts"),
    "revisions_only": lambda recipe: with_responses(recipe, "revisions"),
    "role_baselines": lambda recipe: with_algorithm(without_stage(1)(recipe), "role-baseline"),
    "shared_policy": with_shared_policy,
    "rounds_2": lambda recipe: with_stages(recipe, rules=Rules(max_rounds=2)),
    "rounds_3": lambda recipe: with_stages(recipe, rules=Rules(max_rounds=3)),
    "noisy_judge": with_judge("noisy:0.1:task"),
    "refusals_judge": with_judge("refusals"),
    **{f"price_{price}": with_price(price) for price in PRICES},
}
# These start from the weights of ``without_stage_2``, so each seed's stage 1 (set-up A, T_max 1) is trained once.
# Their stage 2 is a separate run, so it meets the prompts in another order than stage 2 of ``waltz train``.
AFTER_STAGE_1 = {
    "trained_pair",
    "set_up_a",
    "feedback_only",
    "drafts_only",
    "revisions_only",
    "rounds_2",
    "rounds_3",
    *(f"price_{price}" for price in PRICES),
}
# Their warm start is another one, which they share.
THINKING = {"single_model_thinking", "pair_thinking"}


def jobs_of(recipe: Recipe, names: Collection[str], *, seeds: Sequence[int], out: Path) -> tuple[list[Job], list[Job]]:
    """What the runs of a seed share, and the runs of these names.

    Raises:
        UsageError: a run cannot work, or its folder holds another one.
    """
    recipes = [replace(recipe, seed=seed) for seed in seeds]
    runs = [
        Job(
            name,
            change(each),
            out,
            begin_with="without_stage_2" if name in AFTER_STAGE_1 else None,
            base="thinking" if name in THINKING else None,
        )
        for name, change in RUNS.items()
        if name in names
        for each in recipes
    ]
    for job in runs:
        job.check()
    return [Job(UNTRAINED, each, out) for each in recipes] if runs else [], runs


def main() -> int:
    """Does the missing runs, then writes the table; 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--preset", default="nano", help=f"one of {', '.join(PRESETS)}, or a dotted path")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=[*RUNS, "table"], help="the runs to do")
    parser.add_argument("--ray", nargs="*", metavar="ADDRESS", help="run on Ray, as waltz benchmark does")
    parser.add_argument("--gpus", type=float, help="with --ray, number of GPUs of each run, or a share of one")
    options = parser.parse_args()
    chosen = preset(options.preset)
    shared, runs = jobs_of(chosen.recipe, options.only, seeds=options.seeds, out=writable_folder(options.out))
    threads = chosen.threads or torch.get_num_threads()
    where = executor(options.out, workers=1, threads=threads, ray=options.ray, gpus=options.gpus)
    try:
        with where as execute, StepBar(shared, runs) as progress:
            failed = run_jobs([*shared, *runs], execute=execute, progress=progress)
    except KeyboardInterrupt:
        return 130  # the same command continues
    found = collect(options.out, list(RUNS))
    if found:
        write(found, options.out)
    for job in failed:
        print(f"{job.name}, seed {job.recipe.seed} failed: see {job.log}")
    return 1 if failed else 0


def write(found: Rates, out: Path) -> None:
    """Writes ``table.md``, ``table.json`` and ``plane.png``."""
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


# Claims of arXiv:2510.08240, sec. 5, as (text, metric, low, high): the metric is lower for system ``low`` than for
# ``high``. ``sum`` is ASR + ORR.
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
    ("... and single-model RL for as many steps as the pair", "sum", "trained_pair", "single_model_long"),
    ("... and single-model RL that thinks before it answers", "sum", "trained_pair", "single_model_thinking"),
    ("DIR matters: with it off, ASR + ORR is higher", "sum", "trained_pair", "dir_off"),
    ("label accuracy: set-up A above B", "label_accuracy", "set_up_b", "set_up_a"),
    ("label accuracy: set-up B above C", "label_accuracy", "set_up_c", "set_up_b"),
    ("without stage 2 ASR + ORR is higher", "sum", "trained_pair", "without_stage_2"),
    ("detailed feedback has a lower ORR than the oracle's template", "orr", "trained_pair", "oracle_feedback"),
)


def _claim_row(
    text: str, systems: Mapping[str, Mapping[str, Mapping[int, float]]], metric: str, low: str, high: str
) -> str:
    found = paired_interval(_values(systems, metric, low), _values(systems, metric, high))
    if not found.n:
        return f"| {text} | - | not run |"
    verdict = "yes" if found.high < 0 else "no" if found.low > 0 else "undecided"
    return f"| {text} | {_percent(found, '+')} | {verdict} |"


def _values(systems: Mapping[str, Mapping[str, Mapping[int, float]]], metric: str, system: str) -> Mapping[int, float]:
    values = systems.get(system, {})
    if metric != "sum":
        return values.get(metric, {})
    asr, orr = values.get("asr", {}), values.get("orr", {})
    return {seed: asr[seed] + orr[seed] for seed in asr}


def _percent(found: MeanInterval, sign: str = "") -> str:
    return f"{100 * found.mean:{sign}.1f} ± {100 * (found.high - found.mean):.1f}"


def _cell(values: Mapping[int, float]) -> str:
    return _percent(mean_interval(list(values.values()))) if values else "-"


def draw(found: Rates, path: Path) -> None:
    """Draws ASR against ORR for each set: a large dot for each system's mean, small ones for its seeds."""
    figure, panels = plt.subplots(1, len(found), figsize=(7 * len(found), 6), squeeze=False, layout="constrained")
    for axes, (chosen, systems) in zip(panels[0], found.items(), strict=True):
        for number, (system, metrics) in enumerate(systems.items()):
            seeds = sorted(metrics["asr"])
            asr, orr = ([100 * metrics[name][seed] for seed in seeds] for name in ("asr", "orr"))
            color = plt.get_cmap("tab20")(number % 20)
            axes.scatter(asr, orr, s=9, color=color, alpha=0.5)
            axes.scatter(
                statistics.fmean(asr),
                statistics.fmean(orr),
                s=60,
                color=color,
                marker="osD^vP*X"[number % 8],
                label=system,
            )
        axes.set(title=chosen, xlabel="ASR, %", ylabel="ORR, %", xlim=(-1, None), ylim=(-1, None))
        axes.grid(alpha=0.3)
    figure.legend(*panels[0][-1].get_legend_handles_labels(), fontsize="small", loc="outside right upper")
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
