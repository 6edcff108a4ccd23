"""Presets: everything a training run is made of, by name. They join game, agents and algorithms."""

from waltz_env.errors import unknown_name
from waltz_env.presets import nano, smollm2
from waltz_env.presets.pair import lora_pair
from waltz_env.presets.recipe import Preset, Recipe, Workbench

PRESETS: dict[str, Preset] = {"nano": nano.PRESET, "smollm2": smollm2.PRESET}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        UsageError: there is none; the nearest name is suggested.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]


__all__ = ["PRESETS", "Preset", "Recipe", "Workbench", "lora_pair", "preset"]
