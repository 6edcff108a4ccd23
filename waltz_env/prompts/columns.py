"""Which column of a table holds what: the step from a row of anybody's data to a ``Prompt``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from waltz_env.errors import DataError
from waltz_env.types import Kind, Prompt


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table of prompts, by name.

    >>> Columns(text=("question",), kind="label", harmful=("unsafe",), benign=("safe",)).prompt(
    ...     {"question": "What is a firewall?", "label": "safe"}, default_id="mine:1"
    ... ).kind
    <Kind.BENIGN: 'benign'>

    Attributes:
        text: the request: of several columns the first that is not blank.
        kind: the column that tells harmful from benign; or a ``Kind``, where all rows are of one.
        harmful: values of the ``kind`` column that mean harmful, compared as text.
        benign: values that mean benign.
        context: a column that the request talks about, such as a passage; where it is not blank it stands before the
            request, a blank line between them.
        id, category, source, topic: the columns of those fields of a ``Prompt``; empty: no such column.
    """

    text: tuple[str, ...] = ("text",)
    kind: str | Kind = "kind"
    harmful: tuple[str, ...] = (Kind.HARMFUL.value,)
    benign: tuple[str, ...] = (Kind.BENIGN.value,)
    context: str = ""
    id: str = ""
    category: str = ""
    source: str = ""
    topic: str = ""

    def prompt(self, row: Mapping[str, Any], default_id: str) -> Prompt:
        """The prompt that ``row`` holds.

        Raises:
            DataError: a column is missing, all texts are blank, or the kind is neither harmful nor benign.
        """
        return Prompt(
            text=self._text(row),
            kind=self._kind(row),
            id=self._optional(row, self.id) or default_id,
            category=self._optional(row, self.category),
            source=self._optional(row, self.source),
            topic=self._optional(row, self.topic),
        )

    def _text(self, row: Mapping[str, Any]) -> str:
        texts = [_cell(row, column) for column in self.text]
        text = next(filter(str.strip, texts), None)
        if text is None:
            raise DataError(f"{' and '.join(map(repr, self.text))} hold no text; correct or remove this row.")
        context = self._optional(row, self.context)
        return f"{context}\n\n{text}" if context.strip() else text

    def _kind(self, row: Mapping[str, Any]) -> Kind:
        if isinstance(self.kind, Kind):
            return self.kind
        value = _cell(row, self.kind)
        if value in self.harmful:
            return Kind.HARMFUL
        if value in self.benign:
            return Kind.BENIGN
        raise DataError(
            f"{self.kind!r} must be one of {self.harmful} (harmful) or {self.benign} (benign), got {value!r}."
        )

    @staticmethod
    def _optional(row: Mapping[str, Any], column: str) -> str:
        return _cell(row, column) if column else ""


def _cell(row: Mapping[str, Any], column: str) -> str:
    """A cell as text; a null is an empty one."""
    if column not in row:
        raise DataError(f"there is no column {column!r}; the columns are {', '.join(map(repr, row)) or 'none'}.")
    value = row[column]
    return "" if value is None else str(value)
