"""A run folder, read back: its recipe, and its trained pair."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from waltz_env.agents.engines import TRANSFORMERS, trains_elsewhere
from waltz_env.algorithms.training import checkpoint
from waltz_env.algorithms.training.learners import policies_of
from waltz_env.errors import CheckpointError, DataError, UsageError, unknown_name
from waltz_env.presets import Recipe, Workbench, workbench
from waltz_env.run_folder import RunFolder
from waltz_env.settings import decode, encode


def read_recipe(folder: RunFolder) -> Recipe:
    """The recipe of the run in ``folder``.

    Raises:
        UsageError: there is no run; the nearest name beside it is suggested.
        DataError: its settings are damaged, or another version wrote them.
    """
    if not folder.config.exists():
        beside = folder.path.parent
        runs = [path.parent.name for path in beside.glob(f"*/{folder.config.name}")] if beside.exists() else []
        raise unknown_name(f"run in {beside}:", folder.path.name, runs)
    recipe = decode(folder.read_config())
    if not isinstance(recipe, Recipe):
        raise DataError(f"{folder.config} does not hold the settings of a run.")
    return recipe


def claim(folder: RunFolder, recipe: Recipe) -> None:
    """Make ``folder`` the folder of a new run and keep its recipe there. Of two runs that try, one gets it.

    Raises:
        UsageError: it holds a run already, or it cannot be written.
    """
    settings = encode(recipe)
    try:
        decode(settings)
    except DataError as error:  # a class inside a function, say; before the folder is made
        raise UsageError(f"The settings of this run could not be read again. {error}") from error
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        # O_EXCL decides between two runs that start at once; the recipe then replaces the empty file atomically.
        os.close(os.open(folder.config, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError as error:
        if not folder.config.exists():
            raise UsageError(f"{folder.path} is a file; the folder of a run is expected.") from error
        raise UsageError(
            f"{folder.path} holds a run already. Continue it with --resume {folder.path}, or choose another --out."
        ) from error
    except OSError as error:
        raise UsageError(f"{folder.path} cannot be written: {error.strerror}. Choose another --out.") from error
    folder.write_config(settings)


def unclaim(folder: RunFolder) -> None:
    """Remove a claimed folder with nothing but its recipe, so that its name is free again. Others stay as they are."""
    if all(path == folder.config or path.is_dir() for path in folder.path.rglob("*")):
        shutil.rmtree(folder.path, ignore_errors=True)


def load_run(
    folder: RunFolder | Path, accelerator: Accelerator, *, engine: str = TRANSFORMERS
) -> tuple[Recipe, Workbench]:
    """The recipe of a run and its workbench, with the weights of its newest checkpoint.

    Args:
        folder: folder of the run.
        accelerator: device and processes.
        engine: what generates, whatever the run was trained with; see ``agents.engines``.

    Raises:
        UsageError: there is no run in ``folder``, or the engine cannot have its weights.
        CheckpointError: the run has no checkpoint yet.
    """
    folder = folder if isinstance(folder, RunFolder) else RunFolder(folder)
    recipe = with_engine(read_recipe(folder), engine)
    newest_checkpoint(folder)  # fails before anything is built
    bench = workbench(recipe, base_folder(folder, recipe), accelerator=accelerator)
    load_weights(folder, bench)
    return recipe, bench


def base_folder(folder: RunFolder, recipe: Recipe) -> RunFolder:
    """The folder that keeps what the run's preset made on the spot: its base model and its prompts.

    It is the run's own, or, in an experiment over seeds, that of its seed, ``OUT/seed-S``; see ``over_seeds``.

    Args:
        folder: folder of the run.
        recipe: its recipe.
    """
    above = RunFolder(folder.path.resolve().parent)
    shared = above.path.name == f"seed-{recipe.seed}" and (above.base.exists() or above.prompts.exists())
    return above if shared and not folder.base.exists() else folder


def with_engine(recipe: Recipe, engine: str) -> Recipe:
    """The recipe of a run that was trained, with another engine to generate with.

    Raises:
        UsageError: the weights are on a service that trained them and the engine is not one, or the other way round.
    """
    if trains_elsewhere(recipe.engine) and not trains_elsewhere(engine):
        raise UsageError(
            f"The weights of this run are on the service that trained them: give --engine {recipe.engine}, or where "
            "that service is now."
        )
    if trains_elsewhere(engine) and not trains_elsewhere(recipe.engine):
        raise UsageError(f"The weights of this run are here, and the engine {engine} has its own. Use another engine.")
    return replace(recipe, engine=engine)


def newest_checkpoint(folder: RunFolder) -> Path:
    """The newest checkpoint of the run in ``folder``.

    Raises:
        CheckpointError: the run has none yet.
    """
    newest = checkpoint.latest(folder.checkpoints)
    if newest is None:
        raise CheckpointError(
            f"The run in {folder.path} has no checkpoint yet. Continue it: waltz train --resume {folder.path}"
        )
    return newest


def load_weights(folder: RunFolder, bench: Workbench) -> bool:
    """Load the weights of the newest checkpoint of the run in ``folder`` into the agents of ``bench``.

    Returns:
        Whether the run was finished when it saved them, and not interrupted.

    Raises:
        CheckpointError: the run has no checkpoint yet.
    """
    tensors, meta = checkpoint.load(newest_checkpoint(folder))
    for name, policy in policies_of(bench.agents).items():
        policy.load_state_dict(tensors[f"policy/{name}"])
        policy.version = meta["versions"][name]
    position, stages = meta["position"], meta["settings"]["stages"]
    steps_left = sum(stage["steps"] for stage in stages[position["stage"] :]) - position["step_in_stage"]
    return bool(steps_left == 0)
