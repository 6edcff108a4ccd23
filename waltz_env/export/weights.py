"""The weights of a finished run, written so that transformers, PEFT and vLLM load them without the run folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from waltz_env.agents import load_model, lora_policies
from waltz_env.agents.engines import trains_elsewhere
from waltz_env.agents.lora import CONFIG_FILE
from waltz_env.errors import CheckpointError, UsageError
from waltz_env.experiments.saved_run import read_recipe
from waltz_env.presets import Recipe
from waltz_env.run_folder import RunFolder
from waltz_env.types import AGENTS, CONVERSATION, AgentID

ROLES: Mapping[str, AgentID] = {agent.removesuffix("_0"): agent for agent in AGENTS}
BASE = "base"
# What a model's folder holds for transformers, PEFT and vLLM, and its licenses: no pickles, no code, no caches.
COPIED = {".safetensors", ".json", ".jinja", ".model", ".txt", ".md"}


@dataclass(frozen=True, slots=True)
class Export:
    """What an export of a run contains.

    Attributes:
        run: folder of the run.
        recipe: its settings.
        weights: folder of the trained adapter or model of each role, by the role's name.
        merged: whether each role is a whole model; otherwise it is an adapter.
        base: base model of the adapters, a folder or a name on the hub; None if the run trained whole models.
        base_name: name on the hub by which others find the base.
    """

    run: RunFolder
    recipe: Recipe
    weights: Mapping[str, Path]
    merged: bool
    base: str | Path | None
    base_name: str | None

    @property
    def brings_base(self) -> bool:
        """Whether the export includes the base, because nobody else has it."""
        return not self.merged and self.base_name is None

    def place(self, role: str) -> str:
        """Where the role's weights are, relative to the export: two roles have a folder each."""
        return role if len(self.weights) > 1 else "."

    def ranks(self) -> list[int]:
        """The largest rank of each adapter; none for whole models."""
        configs = [_config(folder) for folder in self.weights.values() if _is_adapter(folder)]
        return [max([config["r"], *config.get("rank_pattern", {}).values()]) for config in configs]


def plan(run: RunFolder, *, role: str | None = None, merged: bool = False, base_name: str | None = None) -> Export:
    """What an export of the run would write; nothing is written yet.

    Args:
        run: folder of the run.
        role: ``"conversation"`` or ``"feedback"``; None for each role that the run has trained.
        merged: whether to merge adapters into their base.
        base_name: name of the base on the hub, if the run loaded it from a folder.

    Raises:
        UsageError: there is no run, its weights are on a service, it has not trained that role, it has whole models
            where adapters are asked for, or its roles have different bases.
        CheckpointError: the run is not finished, or its base model is gone.
    """
    recipe = read_recipe(run)
    if trains_elsewhere(recipe.engine):
        raise UsageError(
            f"The weights of {run.path} are on the service that trained them; {run.weights} names their paths there. "
            "Download them: tinker checkpoint download PATH"
        )
    trained = [
        name
        for name, agent in ROLES.items()
        if any(stage.steps > 0 and agent in stage.learners for stage in recipe.stages)
    ]
    if not trained or role not in (None, *trained):
        raise UsageError(
            f"The run in {run.path} has not trained {f'the {role} agent' if role else 'an agent'}; it has trained: "
            f"{', '.join(trained) or 'none'}."
        )
    weights = {name: run.weights / ROLES[name] for name in ([role] if role else trained)}
    for folder in weights.values():
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder} is missing: a run writes its weights when it is finished. Continue it: waltz train --resume "
                f"{run.path}"
            )
    adapters = [folder for folder in weights.values() if _is_adapter(folder)]
    if len(adapters) < len(weights) and not merged:
        raise UsageError(f"The run in {run.path} has trained whole models, not adapters. Export them with --merged.")
    bases = {_base(run, folder) for folder in adapters}
    if len(bases) > 1:
        raise UsageError("The agents of this run have different base models. Export one at a time, with --role.")
    base = next(iter(bases), None)
    export = Export(run, recipe, weights, merged, base, base_name or (base if isinstance(base, str) else None))
    if isinstance(base, Path) and (merged or export.brings_base) and not any(base.glob("*.safetensors")):
        raise CheckpointError(
            f"The base model of {run.path} is gone: {base} holds no safetensors. Put it back, or export the adapters "
            "alone, with --base and its name on the hub."
        )
    return export


def write_weights(export: Export, folder: Path, *, at: Path) -> None:
    """Write the weights, with tokenizers and chat templates.

    Args:
        export: what to write.
        folder: folder to write to.
        at: where that folder will be when it is complete; adapters name an included base by its path there.
    """
    for role, weights in export.weights.items():
        place = folder / export.place(role)
        if export.base is None or not _is_adapter(weights):
            _copy(weights, place)
        elif export.merged:
            _merge(weights, export.base, place)
        else:
            _copy(weights, place)
            base_name = export.base_name or str((at / BASE).resolve())
            config = _config(weights) | {"base_model_name_or_path": base_name}
            (place / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if export.brings_base:
        _copy(Path(str(export.base)), folder / BASE)


def _merge(adapter: Path, base: str | Path, folder: Path) -> None:
    """The adapter merged into its base, in the precision of the base."""
    model, _ = load_model(base, dtype=AutoConfig.from_pretrained(base).dtype or torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    (policy,) = lora_policies(model, tokenizer, names=[CONVERSATION], adapters={CONVERSATION: adapter}).values()
    policy.save_merged(folder)


def _copy(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.is_file() and (file.suffix in COPIED or file.name.startswith(("LICENSE", "NOTICE"))):
            shutil.copyfile(file, folder / file.name)


def _base(run: RunFolder, adapter: Path) -> str | Path:
    """The base of an adapter, found again if it lies in a run folder that was moved."""
    name = str(_config(adapter)["base_model_name_or_path"])
    if Path(name).name == run.base.name and run.base.is_dir():
        return run.base
    return Path(name) if Path(name).is_absolute() else name


def _is_adapter(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


def _config(adapter: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((adapter / CONFIG_FILE).read_text(encoding="utf-8"))
    return config
