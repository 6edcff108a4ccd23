"""Rows of files: each with the place that an error names."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from waltz_env.errors import DataError, UsageError

Rows = Iterator["Row"]


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        number: counted from 1, the heading not counted.
        place: what errors call it, as in ``"prompts.csv, line 12"``.
        cells: value by column.
    """

    number: int
    place: str
    cells: Mapping[str, Any]


def read_table(path: Path) -> Rows:
    """The rows of a CSV or TSV file, by its suffix; UTF-8, with or without a byte order mark.

    Raises:
        UsageError: the suffix is none of these.
        DataError: the file cannot be read, or is not in its format; the message gives file and line.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"Tables are read from {', '.join(READERS)} files; got {str(path)!r}. Rename or convert it.")
    return reader(path)


def _read_csv(path: Path, delimiter: str = ",") -> Rows:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, delimiter=delimiter)
            heading = next(lines, [])
            number, start = 0, lines.line_num + 1
            for cells in lines:
                if cells:
                    number += 1
                    place = f"{path}, line {start}"
                    if len(cells) != len(heading):
                        raise DataError(
                            f"{place}: {len(cells)} cells under a heading of {len(heading)} columns; quote cells that "
                            "hold the delimiter, a quotation mark or a line break."
                        )
                    yield Row(number, place, dict(zip(heading, cells, strict=True)))
                start = lines.line_num + 1
    except OSError as error:
        raise DataError(f"Cannot read prompts from {str(path)!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); convert it.") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {start}: {error}.") from error


def _read_tsv(path: Path) -> Rows:
    return _read_csv(path, "\t")


READERS: dict[str, Callable[[Path], Rows]] = {".csv": _read_csv, ".tsv": _read_tsv}
