"""Recipes over seeds in one folder: each run once, continued where it was interrupted, what they share made once.

``OUT/seed-S/NAME`` is the run NAME of seed S; models that a preset builds on the spot are shared by the runs of a seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import Accelerator

from waltz_env.algorithms import train
from waltz_env.algorithms.training import checkpoint
from waltz_env.cli.results import about_run, add_systems, read_sets
from waltz_env.cli.systems import Systems, trained_systems, untrained_systems
from waltz_env.errors import UsageError
from waltz_env.judges import RequestClassifier
from waltz_env.presets import Recipe, Workbench, workbench
from waltz_env.presets.run import is_run, load_weights, read_recipe, write_recipe
from waltz_env.types import Prompt

UNTRAINED = "untrained"

# Rates by set, system, metric and seed.
Rates = dict[str, dict[str, dict[str, dict[int, float]]]]


def seed_folder(out: Path, seed: int) -> Path:
    """Where the runs of a seed are kept."""
    return out / f"seed-{seed}"


def play_untrained(recipe: Recipe, out: Path) -> None:
    """The systems of a seed that need no training, unless they have been played."""
    folder = seed_folder(out, recipe.seed)
    if read_sets(folder / UNTRAINED):
        return
    bench = workbench(recipe, folder, Accelerator())
    guard = RequestClassifier(bench.prompts)
    _report(
        folder / UNTRAINED,
        bench,
        recipe,
        lambda prompts: untrained_systems(bench.agents, bench.judge, prompts, guard=guard, oracle=True),
    )


def run(name: str, recipe: Recipe, out: Path, *, begin_with: str | None = None) -> bool:
    """Trains and evaluates one recipe, unless it has been done.

    Args:
        name: of the run.
        recipe: its settings, the seed among them.
        out: folder of the experiment.
        begin_with: a finished run of the same seed, whose weights take the place of this one's stage 1.

    Returns:
        False after Ctrl-C: call it again to continue.

    Raises:
        UsageError: the folder holds a run of that name with other settings, or ``begin_with`` is not finished.
    """
    accelerator = Accelerator()
    folder = seed_folder(out, recipe.seed)
    check_settings(folder / name, recipe)
    if read_sets(folder / name):
        return True
    if begin_with is not None and not read_sets(folder / begin_with):
        raise UsageError(f"{name} begins with the weights of {folder / begin_with}: finish that run first.")
    write_recipe(folder / name, recipe)
    bench = workbench(recipe, folder, accelerator)
    stages = recipe.stages()
    prompts = bench.stage_prompts or [bench.prompts] * len(stages)
    if begin_with is not None:
        load_weights(folder / begin_with, bench)
        stages, prompts = stages[1:], prompts[1:]
    finished = train(
        bench.policies,
        bench.agents,
        judge=bench.judge,
        prompts=prompts,
        stages=stages,
        folder=folder / name,
        config=recipe.loop,
        seed=recipe.seed,
        accelerator=accelerator,
        resume=checkpoint.latest(folder / name / "checkpoints") is not None,
    )
    if finished:
        guard = RequestClassifier(bench.prompts)
        _report(
            folder / name,
            bench,
            recipe,
            lambda prompts: trained_systems(recipe, bench.agents, bench.judge, prompts, guard=guard),
        )
    return finished


def check_settings(folder: Path, recipe: Recipe) -> None:
    """Raises ``UsageError`` where ``folder`` holds a run with other settings."""
    if is_run(folder) and read_recipe(folder) != recipe:
        raise UsageError(f"{folder} is a run with other settings. Choose another folder, or remove it.")


def collect(out: Path, runs: Sequence[str]) -> Rates:
    """The rates of all finished runs; a trained pair stands under the name of its run."""
    found: Rates = {}
    for folder in sorted(out.glob("seed-*")):
        seed = int(re.sub(r"\D", "", folder.name))
        for name in (UNTRAINED, *runs):
            for chosen, content in read_sets(folder / name).items():
                for system, metrics in content["systems"].items():
                    row = name if system in ("trained_pair", "feedback_only") else system
                    for metric, rate in metrics.items():
                        if rate["value"] is not None:
                            values = found.setdefault(chosen, {}).setdefault(row, {}).setdefault(metric, {})
                            values[seed] = rate["value"]
    return found


def _report(folder: Path, bench: Workbench, recipe: Recipe, play: Callable[[Sequence[Prompt]], Systems]) -> None:
    sets = {name: play(list(prompts) * recipe.test_samples) for name, prompts in bench.tests.items()}
    add_systems(folder, sets, about_run(recipe, bench))
