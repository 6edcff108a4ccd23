"""Presets: everything a training run is made of, by name. They join game, agents and algorithms."""

from dataclasses import replace

from accelerate import Accelerator

from waltz_env.agents import LanguageModelPolicy
from waltz_env.agents.engines import check_engine, on_engine
from waltz_env.errors import UsageError
from waltz_env.presets import chat, llama, nano, smollm2
from waltz_env.presets.pair import lora_pair, shard
from waltz_env.presets.recipe import (
    Preset,
    Recipe,
    Workbench,
    with_algorithm,
    with_distillation,
    with_learners,
    with_method,
    with_stages,
    with_steps,
)
from waltz_env.resolve import resolve
from waltz_env.run_folder import RunFolder

ENTRY_POINTS = "waltz_env.presets"
"""The group of entry points in which other packages register their presets."""

PRESETS: dict[str, Preset] = {
    "nano": nano.PRESET,
    "chat": chat.PRESET,
    "smollm2": smollm2.PRESET,
    "llama-3.1-8b": llama.PRESET,
    "llama-3.1-8b-lora": llama.LORA_PRESET,
}


def preset(name: str) -> Preset:
    """The preset called ``name``: included, an entry point in the group ``waltz_env.presets``, or at a dotted path.

    Its recipe carries that name, so that a run folder can tell which preset built it.

    Raises:
        UsageError: there is no such preset; the nearest name is suggested.
    """
    chosen = resolve("preset", name, known=PRESETS, expected=Preset, entry_points=ENTRY_POINTS)
    return replace(chosen, recipe=replace(chosen.recipe, preset=name))


def workbench(recipe: Recipe, folder: RunFolder, *, accelerator: Accelerator) -> Workbench:
    """What the recipe's preset builds.

    Args:
        recipe: settings of the run.
        folder: run folder, which keeps a base model that the preset makes on the spot.
        accelerator: device and processes.

    Raises:
        UsageError: there is no such preset, the roles should share a policy and the preset builds two, the engine
            cannot be had, or the models cannot be sharded.
    """
    check_engine(recipe.engine, processes=accelerator.num_processes, sharded=recipe.shard)
    bench = preset(recipe.preset).build(recipe, folder, accelerator)
    if recipe.shared_policy and len({id(getattr(agent, "policy", agent)) for agent in bench.agents.values()}) > 1:
        raise UsageError(f"The preset {recipe.preset} builds a policy for each role; train it without --shared-policy.")
    if recipe.shard:
        for agent in bench.agents.values():
            policy = getattr(agent, "policy", None)
            if isinstance(policy, LanguageModelPolicy):
                shard(policy, accelerator)
    return replace(bench, agents=on_engine(bench.agents, recipe.engine))


__all__ = [
    "PRESETS",
    "Preset",
    "Recipe",
    "Workbench",
    "lora_pair",
    "preset",
    "with_algorithm",
    "with_distillation",
    "with_learners",
    "with_method",
    "with_stages",
    "with_steps",
    "workbench",
]
