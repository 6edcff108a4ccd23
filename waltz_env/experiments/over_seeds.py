"""Recipes over seeds in one folder: each run once, continued where it was interrupted, with one base model per seed.

``OUT/seed-S/NAME`` is the run NAME of seed S. Models that a preset builds on the spot are shared by the runs of a seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import Accelerator

from waltz_env.errors import UsageError
from waltz_env.experiments.results import Results, about_run, add_systems, read_sets
from waltz_env.experiments.run import execute
from waltz_env.experiments.saved_run import read_recipe
from waltz_env.experiments.systems import TRAINED, untrained_systems
from waltz_env.judges import RequestClassifier, load_judge, without_noise
from waltz_env.judging import check_judge
from waltz_env.presets import Recipe, workbench
from waltz_env.run_folder import RunFolder

UNTRAINED = "untrained"

Rates = dict[str, dict[str, dict[str, dict[int, float]]]]
"""Rates by set, system, metric and seed."""


def seed_folder(out: Path, seed: int) -> RunFolder:
    """The folder of everything that the runs of a seed share."""
    return RunFolder(out / f"seed-{seed}")


def run_folder(out: Path, seed: int, name: str) -> RunFolder:
    """The folder of one run of a seed."""
    return RunFolder(out / f"seed-{seed}" / name)


def play_untrained(recipe: Recipe, out: Path) -> None:
    """Play the systems of a seed that need no training, unless they have been played."""
    shared, folder = seed_folder(out, recipe.seed), run_folder(out, recipe.seed, UNTRAINED)
    if read_sets(folder):
        return
    judge_name = without_noise(recipe.judge)
    judge = load_judge(judge_name)
    check_judge(judge, judge_name)
    bench = workbench(recipe, shared, accelerator=Accelerator())
    guard = RequestClassifier(bench.training_prompts)
    sets = {
        name: untrained_systems(
            list(prompts) * recipe.test_samples,
            bench.agents,
            judge=judge,
            guard=guard,
            oracle=True,
            exclude_unreadable=recipe.loop.exclude_unreadable,
        )
        for name, prompts in bench.tests.items()
    }
    expected = {name: len(prompts) * recipe.test_samples for name, prompts in bench.tests.items()}
    add_systems(folder, sets, about_run(recipe, bench), expected=expected)


def run(
    name: str,
    recipe: Recipe,
    out: Path,
    *,
    begin_with: str | None = None,
    base: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Results | None:
    """Train and evaluate one recipe, unless that has been done.

    Args:
        name: name of the run.
        recipe: its settings, including the seed.
        out: folder of the experiment.
        begin_with: name of a finished run of the same seed, whose weights take the place of this run's first stage.
        base: name of the base model that a preset builds on the spot, where it is not the one of most runs of a seed.
        should_stop: asked after every step, see ``train``.

    Returns:
        The results; None if ``should_stop`` ended the training: call ``run`` again to continue.

    Raises:
        UsageError: the folder holds a run of that name with other settings, or ``begin_with`` is not finished.
    """
    folder = run_folder(out, recipe.seed, name)
    return execute(
        recipe,
        folder,
        resume=folder.config.exists(),
        untrained=False,
        safeguard=True,
        begin_with=None if begin_with is None else run_folder(out, recipe.seed, begin_with),
        base_from=seed_folder(out, recipe.seed) if base is None else run_folder(out, recipe.seed, base),
        should_stop=should_stop,
    )


def check_settings(folder: RunFolder, recipe: Recipe) -> None:
    """Check that ``folder`` does not hold a run with other settings.

    Raises:
        UsageError: it does.
    """
    if folder.config.exists() and read_recipe(folder) != recipe:
        raise UsageError(f"{folder.path} is a run with other settings. Choose another folder, or remove it.")


def collect(out: Path, runs: Sequence[str]) -> Rates:
    """The rates of all finished runs; what a run has trained stands under the name of the run."""
    result: Rates = {}
    for path in sorted(out.glob("seed-*")):
        seed = int(re.sub(r"\D", "", path.name))
        for name in (UNTRAINED, *runs):
            for prompt_set, content in read_sets(run_folder(out, seed, name)).items():
                for system, metrics in content["systems"].items():
                    row = f"{name}_safeguard" if system == "single_model_rl_safeguard" else system
                    row = name if system in TRAINED.values() else row
                    for metric, rate in metrics.items():
                        if rate["value"] is not None:
                            values = result.setdefault(prompt_set, {}).setdefault(row, {}).setdefault(metric, {})
                            values[seed] = rate["value"]
    return result
