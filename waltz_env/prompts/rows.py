"""Rows of data files, each with the place that an error names, and how they become prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from waltz_env.errors import DataError
from waltz_env.spaces import MAX_PROMPT_CHARS
from waltz_env.types import Prompt

TOO_LONG = f"the environment takes prompts of at most {MAX_PROMPT_CHARS:,}."


class TableRow(NamedTuple):
    """One row of a data file.

    Attributes:
        number: number of the line in a JSONL file, of the row elsewhere, from 1; ids are made from it.
        place: what errors call the row, for example ``"prompts.csv, line 12"``.
        cells: value per column.
    """

    number: int
    place: str
    cells: Mapping[str, Any]


TableRows = Iterator[TableRow]


def parse_rows(rows: Iterable[TableRow], parse: Callable[[TableRow], Prompt]) -> list[Prompt]:
    """The prompts in ``rows``.

    Raises:
        DataError: a row cannot be parsed, its text is longer than the environment takes, or its id is a duplicate. The
            message begins with the row's place.
    """
    prompts: list[Prompt] = []
    places: dict[str, str] = {}
    for row in rows:
        try:
            prompt = parse(row)
            if prompt.id in places:
                where = places[prompt.id].rpartition(", ")[2]
                raise DataError(f"the id {prompt.id!r} is also on {where}; ids must be unique.")
            if len(prompt.text) > MAX_PROMPT_CHARS:
                raise DataError(f"the text has {len(prompt.text):,} characters; {TOO_LONG}")
        except DataError as error:
            raise DataError(f"{row.place}: {error}") from error.__cause__
        places[prompt.id] = row.place
        prompts.append(prompt)
    return prompts
