"""Rows of JSONL, CSV, TSV and Parquet files, chosen by the suffix of the file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from waltz_env.errors import DataError, UsageError
from waltz_env.extras import install_command
from waltz_env.prompts.jsonl import read_objects
from waltz_env.prompts.rows import TOO_LONG, TableRow, TableRows
from waltz_env.spaces import MAX_PROMPT_CHARS

NEEDS_DATA = f"needs the package `datasets`: {install_command('data')}"


def read_table(path: Path) -> TableRows:
    """The rows of a CSV, TSV or Parquet file; a file with any other suffix is read as JSONL. Text is UTF-8.

    Raises:
        UsageError: the package that reads Parquet files is not installed.
        DataError: the file violates its format, or two of its columns have one name; the message gives the file and,
            for text, the line.
        OSError: the file cannot be read.
    """
    return READERS.get(path.suffix.lower(), _read_jsonl)(path)


def _read_jsonl(path: Path) -> TableRows:
    with path.open("rb") as lines:
        yield from read_objects(lines, str(path))


def _read_csv(path: Path, delimiter: str = ",") -> TableRows:
    """Quotes as in spreadsheets and pandas: a cell in quotation marks may hold delimiters and line breaks.

    ``strict``: without it a quotation mark that is never closed would take the rest of the file into its cell.
    """
    number, line = 0, 1
    csv.field_size_limit(max(csv.field_size_limit(), MAX_PROMPT_CHARS))  # for the whole process, so never lower it
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            records = csv.reader(file, delimiter=delimiter, strict=True)
            heading = next(records, [])
            _check_heading(heading, f"{path}, line 1")
            line = records.line_num + 1
            for cells in records:
                if cells:
                    number += 1
                    if len(cells) != len(heading):
                        raise DataError(
                            f"{path}, line {line}: {len(cells)} cells under a heading of {len(heading)} columns; put "
                            "cells that hold the delimiter or a line break in quotation marks."
                        )
                    yield TableRow(number, f"{path}, line {line}", dict(zip(heading, cells, strict=True)))
                line = records.line_num + 1
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, after line {line}: not UTF-8 ({error.reason}); convert the file.") from error
        except csv.Error as error:
            reason = f"{error}; check the quotation marks."
            if "field limit" in str(error):
                reason = (
                    f"a cell has more than {csv.field_size_limit():,} characters; {TOO_LONG} Is a quotation mark open?"
                )
            raise DataError(f"{path}, line {line}: {reason}") from error


def _check_heading(names: Sequence[str], place: str) -> None:
    """Refuses columns of one name: which of them is meant cannot be known."""
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{place}: {names.count(twice)} columns have the name {twice!r}; rename all but one.")


def _read_tsv(path: Path) -> TableRows:
    return _read_csv(path, "\t")


def _read_parquet(path: Path) -> TableRows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(f"{path} {NEEDS_DATA}") from error
    try:
        table = parquet.ParquetFile(path)
        _check_heading(table.schema_arrow.names, str(path))
        rows = (cells for batch in table.iter_batches() for cells in batch.to_pylist())
        for number, cells in enumerate(rows, 1):
            yield TableRow(number, f"{path}, row {number}", cells)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file that can be read: {error}") from error


READERS: dict[str, Callable[[Path], TableRows]] = {".csv": _read_csv, ".tsv": _read_tsv, ".parquet": _read_parquet}
