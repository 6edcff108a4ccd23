"""A run folder, read back: its settings, and its trained pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from pydantic import TypeAdapter, ValidationError

from waltz_env.algorithms.training import checkpoint
from waltz_env.algorithms.training.saved_state import describe
from waltz_env.errors import CheckpointError, unknown_name
from waltz_env.files import atomic_path
from waltz_env.presets import Recipe, Workbench, workbench

CONFIG = "config.json"


def is_run(folder: Path) -> bool:
    """Whether ``folder`` is a run's; the folder of a Hugging Face model has a ``config.json`` too, of another kind."""
    path = folder / CONFIG
    return path.exists() and '"preset"' in path.read_text(encoding="utf-8")


def read_recipe(folder: Path) -> Recipe:
    """The settings of the run in ``folder``.

    Raises:
        UsageError: there is no run; the nearest name beside it is suggested.
        CheckpointError: its ``config.json`` does not hold the settings of a run.
    """
    path = folder / CONFIG
    if not path.exists():
        runs = [each.parent.name for each in folder.parent.glob(f"*/{CONFIG}")] if folder.parent.exists() else []
        raise unknown_name(f"run in {folder.parent}:", folder.name, runs)
    try:
        return TypeAdapter(Recipe).validate_python(_untyped(json.loads(path.read_text(encoding="utf-8"))))
    except (json.JSONDecodeError, ValidationError) as error:
        raise CheckpointError(f"{path} does not hold the settings of a run: {error}") from error


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Keeps the settings of a run in its folder, for ``read_recipe``."""
    with atomic_path(folder / CONFIG) as path:
        path.write_text(json.dumps(describe(**vars(recipe)), indent=1) + "\n", encoding="utf-8")


def load_run(folder: Path, accelerator: Accelerator) -> tuple[Recipe, Workbench]:
    """The settings of a run and its workbench, with the weights of its newest checkpoint.

    Raises:
        UsageError: there is no run in ``folder``.
        CheckpointError: the run has no checkpoint yet.
    """
    recipe = read_recipe(folder)
    newest_checkpoint(folder)  # before anything is built
    bench = workbench(recipe, folder, accelerator)
    load_weights(folder, bench)
    return recipe, bench


def newest_checkpoint(folder: Path) -> Path:
    """The newest checkpoint of the run in ``folder``.

    Raises:
        CheckpointError: the run has none yet.
    """
    newest = checkpoint.latest(folder / "checkpoints")
    if newest is None:
        raise CheckpointError(f"The run in {folder} has no checkpoint yet. Continue it: waltz train --resume {folder}")
    return newest


def load_weights(folder: Path, bench: Workbench) -> bool:
    """Gives the policies of ``bench`` the weights of the newest checkpoint of the run in ``folder``.

    Returns:
        Whether they are those of the end of the training, and not of an interruption.

    Raises:
        CheckpointError: the run has no checkpoint yet.
    """
    tensors, meta = checkpoint.load(newest_checkpoint(folder))
    for name, policy in bench.policies.items():
        policy.load_state_dict(tensors[f"policy/{name}"])
        policy.version = meta["versions"][name]
    progress, stages = meta["progress"], meta["recipe"]["stages"]
    steps_left = [stage["steps"] for stage in stages[progress["stage"] :]]
    return sum(steps_left) == progress["step_in_stage"]


def _untyped(value: Any) -> Any:
    """Without the ``type`` entries that name the classes of nested settings."""
    if isinstance(value, dict):
        return {key: _untyped(each) for key, each in value.items() if key != "type"}
    return value
