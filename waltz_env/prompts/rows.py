"""Rows of anybody's data, each with the place that an error names, and how they become prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from waltz_env.errors import DataError
from waltz_env.types import Prompt


class Row(NamedTuple):
    """One row.

    Attributes:
        number: what an id made from it counts: lines of a JSONL file, rows elsewhere, from 1.
        place: what errors call it, as in ``"prompts.csv, line 12"``.
        cells: value by column.
    """

    number: int
    place: str
    cells: Mapping[str, Any]


Rows = Iterator[Row]


def read_rows(rows: Iterable[Row], parse: Callable[[Row], Prompt]) -> list[Prompt]:
    """The prompts of ``rows``.

    Raises:
        DataError: a row is no prompt, or its id stood before; the message begins with the row's place.
    """
    prompts: list[Prompt] = []
    places: dict[str, str] = {}
    for row in rows:
        try:
            prompt = parse(row)
            if prompt.id in places:
                where = places[prompt.id].rpartition(", ")[2]
                raise DataError(f"the id {prompt.id!r} stands on {where} already; ids are unique.")
        except DataError as error:
            raise DataError(f"{row.place}: {error}") from error.__cause__
        places[prompt.id] = row.place
        prompts.append(prompt)
    return prompts
