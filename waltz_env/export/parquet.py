"""Games as Parquet, with one schema for every file: what the hub shows, and any table library reads, by column."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData

from waltz_env.experiments.results import stored_systems
from waltz_env.files import atomic_path
from waltz_env.records import encode_game, training_games
from waltz_env.run_folder import RunFolder
from waltz_env.types import Trajectory
from waltz_env.untrusted_text import encodable

WARNING = "The games hold harmful prompts and what models answered, which may itself be harmful."
TRAINING, HELD_OUT = "training", "held-out"

_LABELS = pa.struct({"unsafe": pa.bool_(), "overrefuse": pa.bool_()})
_COMPLETION = {"text": pa.string(), "finish": pa.string(), "version": pa.int64(), "labels": _LABELS}
_PROMPT = {name: pa.string() for name in ("text", "kind", "id", "category", "source", "topic", "intent")}
_MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
_SCORES = pa.list_(pa.struct({"name": pa.string(), "value": pa.float64()}))
_JUDGED = {"judge": pa.string(), "rationale": pa.string(), "scores": _SCORES, "no_verdict": pa.string()}
SCHEMA = {
    "prompt": pa.struct(_PROMPT | {"history": _MESSAGES}),
    "responses": pa.list_(pa.struct(_COMPLETION | _JUDGED)),
    "critiques": pa.list_(pa.struct(_COMPLETION | {"advice": pa.string(), "reasoning": pa.string()})),
    "branch": pa.list_(pa.int64()),
}
"""Columns of a game (``waltz_env.records``), without tokens; scores are a list of name and value."""


def write_parquet(run: RunFolder, folder: Path) -> list[Path]:
    """Write the training games and the held-out games of a run, as far as there are any, and a data set card.

    Training games have a column ``step``, held-out games ``set`` and ``system``.

    Args:
        run: folder of the run.
        folder: folder to write to.

    Returns:
        The Parquet files; without games nothing is written.
    """
    training = (({"step": step}, games) for step, games in enumerate(training_games(run), 1))
    held_out = (
        ({"set": name, "system": system}, games)
        for name, systems in stored_systems(sorted(run.held_out_games.glob("*.jsonl"))).items()
        for system, games in systems.items()
    )
    files = [folder / f"{TRAINING}.parquet", folder / f"{HELD_OUT}.parquet"]
    _write(files[0], {"step": pa.int64()}, training)
    _write(files[1], {"set": pa.string(), "system": pa.string()}, held_out)
    written = [file for file in files if file.exists()]
    if written:
        (folder / "README.md").write_text(str(_card(written)), encoding="utf-8")
    return written


def _write(
    file: Path, own: dict[str, pa.DataType], groups: Iterable[tuple[Mapping[str, Any], Sequence[Trajectory]]]
) -> None:
    """One row group for each group of games, so that only one is in memory."""
    schema = pa.schema(own | SCHEMA)
    tables = (pa.Table.from_pylist([{**names, **_row(game)} for game in games], schema) for names, games in groups)
    first = next(tables, None)
    if first is None:
        return
    with atomic_path(file) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _row(game: Trajectory) -> dict[str, Any]:
    row = {"branch": [], **json.loads(encode_game(game, tokens=False))}
    for response in row["responses"]:
        if "scores" in response:
            response["scores"] = [{"name": name, "value": value} for name, value in response["scores"].items()]
    return dict(_encodable({name: row[name] for name in SCHEMA}))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {name: _encodable(item) for name, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value


def _card(files: Sequence[Path]) -> DatasetCard:
    splits = {TRAINING: "train", HELD_OUT: "test"}
    data = DatasetCardData(
        task_categories=["text-generation"],
        tags=["waltz_env", "waltzrl", "safety", "not-for-all-audiences"],
        configs=[
            {"config_name": file.stem, "data_files": [{"split": splits[file.stem], "path": file.name}]}
            for file in files
        ],
    )
    text = (
        f"# Games\n\n**{WARNING}**\n\nOne row is one game of a run of waltz_env: the prompt, the conversation agent's "
        "responses with the judge's labels, and the feedback agent's critiques between them.\n"
    )
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{text}")
