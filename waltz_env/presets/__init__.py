"""Presets: everything a training run is made of, by name. They join game, agents and algorithms."""

from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from waltz_env.errors import UsageError
from waltz_env.judges import load_judge
from waltz_env.presets import llama, nano, smollm2
from waltz_env.presets.pair import lora_pair
from waltz_env.presets.recipe import Preset, Recipe, Workbench
from waltz_env.resolve import resolve

ENTRY_POINTS = "waltz_env.presets"
"""The group of entry points in which other packages register their presets."""

PRESETS: dict[str, Preset] = {
    "nano": nano.PRESET,
    "smollm2": smollm2.PRESET,
    "llama-3.1-8b": llama.PRESET,
    "llama-3.1-8b-lora": llama.LORA_PRESET,
}


def preset(name: str) -> Preset:
    """The preset called ``name``: included, an entry point in the group ``waltz_env.presets``, or at a dotted path.

    Raises:
        UsageError: there is no such preset; the nearest name is suggested.
    """
    return resolve("preset", name, known=PRESETS, expected=Preset, entry_points=ENTRY_POINTS)


def workbench(recipe: Recipe, folder: Path, accelerator: Accelerator) -> Workbench:
    """What the recipe's preset builds, with the recipe's judge where it names one.

    Args:
        recipe: the settings.
        folder: of the run, where base models that were made on the spot are kept.
        accelerator: device and processes.

    Raises:
        UsageError: no preset or no judge has the name that the recipe gives; or the roles should share a policy, and
            the preset builds two.
    """
    bench = preset(recipe.preset).build(recipe, folder, accelerator)
    if recipe.shared_policy and len(set(map(id, bench.policies.values()))) > 1:
        raise UsageError(f"The preset {recipe.preset} builds a policy for each role; train it without --shared-policy.")
    return bench if recipe.judge is None else replace(bench, judge=load_judge(recipe.judge))


__all__ = ["PRESETS", "Preset", "Recipe", "Workbench", "lora_pair", "preset", "workbench"]
