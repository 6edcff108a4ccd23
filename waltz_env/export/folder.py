"""``waltz export``: a folder with the weights of a run, its model card, and the prompts that a deployment needs."""

from __future__ import annotations

import json
from pathlib import Path

from waltz_env.errors import UsageError
from waltz_env.export.card import chats_of, write_card
from waltz_env.export.weights import Export, plan, write_weights
from waltz_env.files import atomic_folder, writable_folder
from waltz_env.run_folder import RunFolder

CARD, PROMPTS, RECIPE = "README.md", "prompts.json", "recipe.json"


def export_run(
    run: RunFolder, to: Path, *, role: str | None = None, merged: bool = False, base_name: str | None = None
) -> Export:
    """Write what a finished run has trained to a new folder, for transformers, PEFT and vLLM.

    Args:
        run: folder of the run.
        to: folder to write, which must not exist yet or be empty. It needs neither the run folder nor this package.
        role: ``"conversation"`` or ``"feedback"``: ``to`` itself then holds its weights. None takes each role that the
            run has trained; two of them have a folder each, with their names.
        merged: whether to merge adapters into their base.
        base_name: name of the base model on the hub, if the run loaded it from a folder. Without it, that base is
            copied to ``base``.

    Returns:
        What was written.

    Raises:
        UsageError: the arguments do not fit the run, or ``to`` cannot be written.
        CheckpointError: the run is not finished, or its base model is gone. Nothing is written in either case.
    """
    export = plan(run, role=role, merged=merged, base_name=base_name)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UsageError(f"{to} is there already and is not an empty folder; choose another --to.")
    writable_folder(to.parent)
    if to.exists():
        to.rmdir()
    with atomic_folder(to) as folder:
        write_export(export, folder, name=to.resolve().name, at=to)
    return export


def write_export(export: Export, folder: Path, *, name: str, at: Path) -> None:
    """Write the weights, the card, the recipe and the prompts.

    Args:
        export: what to write.
        folder: folder to write to, which exists.
        name: title of the card.
        at: where that folder will be when it is complete.
    """
    write_weights(export, folder, at=at)
    write_card(export, folder / CARD, name=name)
    (folder / RECIPE).write_bytes(export.run.config.read_bytes())
    prompts = chats_of(export)
    if prompts:
        (folder / PROMPTS).write_text(json.dumps(prompts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
