"""Checkpoints on disk: named groups of tensors as safetensors, everything else as JSON. Nothing is pickled."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from waltz_env.errors import CheckpointError, UsageError
from waltz_env.files import usual_permissions
from waltz_env.sharding import check_whole, whole

Tensors = dict[str, dict[str, Tensor]]

META_FILE = "meta.json"
TENSORS_FILE = "tensors.safetensors"
FORMAT = 1
_SEPARATOR = "::"


def save(
    folder: str | os.PathLike[str],
    tensors: Mapping[str, Mapping[str, Tensor]],
    meta: Mapping[str, Any],
    *,
    keep: int,
    write: bool = True,
) -> None:
    """Write the checkpoint ``folder``, completely or not at all.

    It is written next to its place and then renamed, so an interruption leaves earlier checkpoints as they were. Of the
    checkpoints beside it, only the newest by name are kept. Tensors that are split over processes are gathered one at a
    time, so all processes call this with their parts, in the same order.

    Args:
        folder: folder of this checkpoint, such as ``checkpoints/step-00040``; names in one folder sort by age.
        tensors: groups of named tensors: weights, optimizer, random states (uint8).
        meta: everything that is not a tensor, as JSON values, such as states of NumPy generators.
        keep: number of checkpoints to keep, 1 or more, including this one.
        write: whether this process writes; one that does not only helps to gather.

    Raises:
        UsageError: ``keep`` is below 1, a name holds ``::``, a tensor was split by something else than
            ``LanguageModelPolicy.shard``, or ``meta`` is not JSON.
    """
    folder = Path(folder)
    if keep < 1:
        raise UsageError(f"keep must be 1 or more; got {keep}.")
    saved = [tensor for named in tensors.values() for tensor in named.values() if tensor.numel()]
    check_whole(saved, task="A checkpoint", or_shards=True)
    flat = {}
    for group, named in tensors.items():
        for name, tensor in named.items():
            gathered = whole(tensor)
            if write:
                flat[f"{group}{_SEPARATOR}{name}"] = gathered.detach().cpu().contiguous().clone()
    if not write:
        return
    if any(key.count(_SEPARATOR) != 1 for key in flat):
        raise UsageError(f"Names of tensors and of their groups must not hold {_SEPARATOR!r}.")
    try:
        text = json.dumps({"format": FORMAT, "groups": list(tensors), "meta": meta}, indent=1)
    except TypeError as error:
        raise UsageError(f"A checkpoint's meta must be made of JSON values: {error}.") from error
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(flat, partial / TENSORS_FILE)
    (partial / META_FILE).write_text(text, encoding="utf-8")
    usual_permissions(partial)
    replaced = folder.with_name(f".{folder.name}.replaced")
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    for old in _checkpoints(folder.parent)[:-keep]:
        if old != folder:
            shutil.rmtree(old)


def load(folder: str | os.PathLike[str]) -> tuple[Tensors, dict[str, Any]]:
    """Read what ``save`` wrote: the groups of tensors, on the CPU, and the meta.

    Raises:
        CheckpointError: the checkpoint is missing, incomplete or damaged, or another version wrote it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"There is no checkpoint folder {folder}.")
    missing = [name for name in (META_FILE, TENSORS_FILE) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} is not a complete checkpoint: it has no {' and no '.join(missing)}.")
    try:
        content = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
        flat = load_file(folder / TENSORS_FILE)
    except (ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is damaged ({error}). Delete it to resume from the one before.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{folder} is not of checkpoint format {FORMAT}; it was written by another version.")
    tensors: Tensors = {group: {} for group in content["groups"]}
    for key, tensor in flat.items():
        group, name = key.split(_SEPARATOR)
        tensors[group][name] = tensor
    return tensors, content["meta"]


def latest(folder: str | os.PathLike[str]) -> Path | None:
    """The newest checkpoint in ``folder`` by name; None if there is none."""
    checkpoints = _checkpoints(Path(folder))
    return checkpoints[-1] if checkpoints else None


def latest_finite(folder: str | os.PathLike[str]) -> Path | None:
    """The newest checkpoint in ``folder`` that can be read and is free of NaN and infinity; None if there is none."""
    for path in reversed(_checkpoints(Path(folder))):
        try:
            tensors, _ = load(path)
        except CheckpointError:
            continue
        if all(bool(tensor.isfinite().all()) for group in tensors.values() for tensor in group.values()):
            return path
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"*/{META_FILE}") if not path.parent.name.startswith("."))
