"""Rows of files, by the suffix of the file: JSONL, CSV, TSV and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from waltz_env.errors import DataError, UsageError
from waltz_env.prompts.jsonl import read_objects
from waltz_env.prompts.rows import Row, Rows

NEEDS_DATA = "needs the package `datasets`: `pip install 'waltz-env[data]'`"


def read_table(path: Path) -> Rows:
    """The rows of a CSV, TSV or Parquet file; of any other suffix, the objects of a JSONL file. Text is UTF-8.

    Raises:
        UsageError: a Parquet file, and the package that reads it is not installed.
        DataError: the file is not in its format; the message gives the file and, for text, the line.
        OSError: it cannot be read.
    """
    return READERS.get(path.suffix.lower(), _read_jsonl)(path)


def _read_jsonl(path: Path) -> Rows:
    with path.open("rb") as lines:
        yield from read_objects(lines, str(path))


def _read_csv(path: Path, delimiter: str = ",") -> Rows:
    """Quoting as spreadsheets and pandas do it: a cell in quotation marks may hold delimiters and line breaks."""
    number, line = 0, 1
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            records = csv.reader(file, delimiter=delimiter)
            heading = next(records, [])
            line = records.line_num + 1
            for cells in records:
                if cells:
                    number += 1
                    if len(cells) != len(heading):
                        raise DataError(
                            f"{path}, line {line}: {len(cells)} cells under a heading of {len(heading)} columns; put "
                            "cells that hold the delimiter or a line break in quotation marks."
                        )
                    yield Row(number, f"{path}, line {line}", dict(zip(heading, cells, strict=True)))
                line = records.line_num + 1
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, after line {line}: not UTF-8 ({error.reason}); convert the file.") from error
        except csv.Error as error:
            raise DataError(f"{path}, line {line}: {error}; check the quotation marks.") from error


def _read_tsv(path: Path) -> Rows:
    return _read_csv(path, "\t")


def _read_parquet(path: Path) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(f"{path} {NEEDS_DATA}.") from error
    try:
        batches = parquet.ParquetFile(path).iter_batches()
        cells = (cells for batch in batches for cells in batch.to_pylist())
        for number, each in enumerate(cells, 1):
            yield Row(number, f"{path}, row {number}", each)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file that can be read: {error}") from error


READERS: dict[str, Callable[[Path], Rows]] = {".csv": _read_csv, ".tsv": _read_tsv, ".parquet": _read_parquet}
