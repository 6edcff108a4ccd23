"""Where prompts come from, as one string. docs/prompts.md describes the grammar and the formats.

    builtin:train                        a built-in set
    strongreject                         a public set, from where it is published
    wildjailbreak-train:my/train.tsv     a public set, from a local copy of the published file
    hub:OWNER/NAME[:CONFIG[:SPLIT]]      any data set on the Hugging Face hub, or a folder with the layout of one
    my/prompts.jsonl                     a JSONL, CSV, TSV or Parquet file

The last two take a column mapping: ``my/questions.csv?text=question&kind=benign``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from waltz_env.errors import DataError, did_you_mean, unknown_name
from waltz_env.prompts.columns import Columns
from waltz_env.prompts.hub import HubTable
from waltz_env.prompts.jsonl import parse_prompt, read_prompts
from waltz_env.prompts.public import PUBLIC, PublicSet
from waltz_env.prompts.rows import TableRow, parse_rows
from waltz_env.prompts.tables import read_table
from waltz_env.types import Prompt

BUILTIN = ("builtin:train", "builtin:test")


def load_prompts(source: str) -> list[Prompt]:
    """The prompts that ``source`` names.

    Raises:
        UsageError: a name is unknown, the column mapping is invalid, or a package is missing.
        DataError: the source cannot be read, is empty, or has a row that cannot be parsed.
    """
    scheme, colon, rest = source.partition(":")
    if scheme == "builtin":
        return _read_builtin(source)
    if scheme == "hub" and colon:
        return _read_hub(rest)
    if scheme in PUBLIC:
        return _from_file(Path(rest), PUBLIC[scheme].load_file) if colon else PUBLIC[scheme].load()
    path, _, query = source.partition("?")
    columns = Columns.parse(query) if query else None
    return _from_file(Path(path), lambda file: parse_rows(read_table(file), _parser(columns, file.stem)))


def set_name(source: str) -> str:
    """The name of a set of prompts, fit for a file: ``builtin-test``, or ``mine`` for ``data/mine.jsonl``."""
    return re.sub(r"\W+", "-", Path(source).stem)


def load_prompt_file(path: Path) -> list[Prompt]:
    """The prompts of a file whose columns have the names of the format.

    Raises:
        DataError: the file cannot be read, is empty, or has a row that cannot be parsed.
    """
    return _from_file(path, lambda file: parse_rows(read_table(file), _parser(None, file.stem)))


def _read_builtin(source: str) -> list[Prompt]:
    if source not in BUILTIN:
        raise unknown_name("built-in prompt set", source, BUILTIN)
    split = source.removeprefix("builtin:")
    with (files("waltz_env.prompts") / "data" / f"{split}.jsonl").open("rb") as lines:
        return read_prompts(lines, source, stem=split)


def _read_hub(rest: str) -> list[Prompt]:
    """A data set on the hub. If public sets come from it, they are those of its configuration, or of its first one."""
    name, _, query = rest.partition("?")
    dataset, config, split = (*name.split(":", 2), "", "")[:3]
    known = _on_hub(dataset)
    if query or split or not known:
        columns = Columns.parse(query) if query else None
        return parse_rows(HubTable(dataset, config, split or "train").rows(), _parser(columns, dataset))
    configs = [table.config for _, table in known]
    if config and config not in configs:
        raise unknown_name(f"configuration of {dataset}", config, configs)
    chosen = config or configs[0]
    return [prompt for public, table in known if table.config == chosen for prompt in public.load()]


def _on_hub(dataset: str) -> list[tuple[PublicSet, HubTable]]:
    """The public sets that come from a data set on the hub, with their tables."""
    origins = ((public, public.origin) for public in PUBLIC.values())
    return [(public, table) for public, table in origins if isinstance(table, HubTable) and table.dataset == dataset]


def _parser(columns: Columns | None, stem: str) -> Callable[[TableRow], Prompt]:
    def parse(row: TableRow) -> Prompt:
        default_id = f"{stem}:{row.number}"
        if columns:
            return columns.prompt(row.cells, default_id)
        for key in ("text", "kind"):
            if key not in row.cells:
                raise DataError(
                    f"{key!r} is missing; if the columns have other names, use PATH?text=COLUMN&kind=COLUMN."
                )
        return parse_prompt(row.cells, default_id)

    return parse


def _from_file(path: Path, read: Callable[[Path], list[Prompt]]) -> list[Prompt]:
    try:
        prompts = read(path)
    except OSError as error:
        names = [*BUILTIN, *PUBLIC]
        raise DataError(
            f"Cannot read prompts from {str(path)!r}: {error.strerror}."
            f"{did_you_mean(str(path).partition(':')[0], names)} Give a file, or one of {', '.join(names)} "
            "(docs/prompts.md)."
        ) from error
    if not prompts:
        raise DataError(f"{path} has no prompts; expected one per row, with a text and a kind.")
    return prompts
