"""Where prompts come from, as one string. The grammar and the formats are described in docs/prompts.md.

    builtin:train                        a built-in set
    strongreject                         a public set, from where it is published
    wildjailbreak-train:my/train.tsv     a public set, from a local copy of the published file
    hub:OWNER/NAME[:CONFIG[:SPLIT]]      any data set on the Hugging Face hub, or a folder laid out like one
    my/prompts.jsonl                     a JSONL, CSV, TSV or Parquet file

The last two take a column mapping: ``my/questions.csv?text=question&kind=benign``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from waltz_env.errors import DataError, unknown_name
from waltz_env.prompts.columns import Columns
from waltz_env.prompts.hub import HubTable
from waltz_env.prompts.jsonl import parse_prompt, read_prompts
from waltz_env.prompts.public import PUBLIC, PublicSet
from waltz_env.prompts.rows import Row, read_rows
from waltz_env.prompts.tables import read_table
from waltz_env.types import Prompt

BUILTIN = ("builtin:train", "builtin:test")


def read_source(source: str) -> list[Prompt]:
    """The prompts that ``source`` names.

    Raises:
        UsageError: a name is unknown, a column mapping is none, or a package is missing.
        DataError: what is named cannot be read, is empty, or a row of it is no prompt.
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
    return _from_file(Path(path), lambda file: read_rows(read_table(file), _parser(columns, file.stem)))


def read_file(path: Path) -> list[Prompt]:
    """The prompts of a file whose columns have the names of the format.

    Raises:
        DataError: the file cannot be read, is empty, or a row of it is no prompt.
    """
    return _from_file(path, lambda file: read_rows(read_table(file), _parser(None, file.stem)))


def _read_builtin(source: str) -> list[Prompt]:
    if source not in BUILTIN:
        raise unknown_name("built-in prompt set", source, BUILTIN)
    split = source.removeprefix("builtin:")
    with (files("waltz_env.prompts") / "data" / f"{split}.jsonl").open("rb") as lines:
        return read_prompts(lines, source, stem=split)


def _read_hub(rest: str) -> list[Prompt]:
    """A data set on the hub; of one with public sets those of its configuration, or of the first one it has."""
    name, _, query = rest.partition("?")
    dataset, config, split = (*name.split(":", 2), "", "")[:3]
    known = _on_hub(dataset)
    if query or split or not known:
        columns = Columns.parse(query) if query else None
        return read_rows(HubTable(dataset, config, split or "train").rows(), _parser(columns, dataset))
    configs = [table.config for _, table in known]
    if config and config not in configs:
        raise unknown_name(f"configuration of {dataset}", config, configs)
    chosen = config or configs[0]
    return [prompt for one, table in known if table.config == chosen for prompt in one.load()]


def _on_hub(dataset: str) -> list[tuple[PublicSet, HubTable]]:
    origins = ((one, one.origin) for one in PUBLIC.values())
    return [(one, origin) for one, origin in origins if isinstance(origin, HubTable) and origin.dataset == dataset]


def _parser(columns: Columns | None, stem: str) -> Callable[[Row], Prompt]:
    def parse(row: Row) -> Prompt:
        default_id = f"{stem}:{row.number}"
        if columns:
            return columns.prompt(row.cells, default_id)
        for key in ("text", "kind"):
            if key not in row.cells:
                raise DataError(f"{key!r} is missing; give other names as in PATH?text=COLUMN&kind=COLUMN.")
        return parse_prompt(row.cells, default_id)

    return parse


def _from_file(path: Path, read: Callable[[Path], list[Prompt]]) -> list[Prompt]:
    try:
        prompts = read(path)
    except OSError as error:
        names = [*BUILTIN, *PUBLIC]
        near = difflib.get_close_matches(str(path).partition(":")[0], names, n=1, cutoff=0.5)
        known = f"Did you mean {near[0]!r}? " if near else ""
        raise DataError(
            f"Cannot read prompts from {str(path)!r}: {error.strerror}. {known}Give a file, or one of "
            f"{', '.join(names)} (docs/prompts.md)."
        ) from error
    if not prompts:
        raise DataError(f"{path} holds no prompts; expected one a row, with a text and a kind.")
    return prompts
