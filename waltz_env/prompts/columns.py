"""Which column of a table holds what: how a row of any data becomes a ``Prompt``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qsl

from waltz_env.checks import check_settings
from waltz_env.errors import DataError, UsageError, unknown_name
from waltz_env.types import Kind, Prompt

LISTS = ("text", "harmful", "benign")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns in a table of prompts.

    >>> columns = Columns(text=("question",), kind="label", harmful=("unsafe",), benign=("safe",))
    >>> columns.prompt({"question": "What is a firewall?", "label": "safe"}, default_id="mine:1").kind
    <Kind.BENIGN: 'benign'>

    Attributes:
        text: columns with the request; the first one that is not blank counts.
        kind: column that tells harmful from benign, or a ``Kind`` if all rows are of one kind.
        harmful: values of the ``kind`` column that mean harmful, compared as text.
        benign: values of the ``kind`` column that mean benign.
        context: column with what the request is about, such as a passage; if it is not blank, it comes before the
            request, with a blank line between them.
        id, category, source, topic, intent: columns of those fields of a ``Prompt``; empty if the table has none.

    Raises:
        UsageError: a value means both harmful and benign.
    """

    text: tuple[str, ...]
    kind: str | Kind
    harmful: tuple[str, ...] = (Kind.HARMFUL.value,)
    benign: tuple[str, ...] = (Kind.BENIGN.value,)
    context: str = ""
    id: str = ""
    category: str = ""
    source: str = ""
    topic: str = ""
    intent: str = ""

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.text or not all(self.text) or not self.kind:
            raise UsageError(f"text must name at least one column, and kind a column or a kind; got {self}.")
        both = sorted(set(self.harmful) & set(self.benign))
        if both:
            raise UsageError(f"{', '.join(map(repr, both))} cannot mean harmful and benign.")

    @classmethod
    def parse(cls, query: str) -> Columns:
        """Reads a query string such as ``"text=question&kind=label&harmful=unsafe,toxic&benign=safe"``.

        ``kind=harmful`` and ``kind=benign`` name a kind; any other value names a column. ``text``, ``harmful`` and
        ``benign`` take several names, separated by commas. Special characters are escaped as in a URL (``%26`` for &).

        Raises:
            UsageError: a key is unknown or given twice, ``text`` or ``kind`` is missing, or a value means both harmful
                and benign.
        """
        known = [field.name for field in fields(cls)]
        values: dict[str, Any] = {}
        for key, value in parse_qsl(query, keep_blank_values=True):
            if key not in known:
                raise unknown_name("column key", key, known)
            if key in values or not value:
                raise UsageError(f"Each column key takes one value; got {query!r}. Separate several names by commas.")
            values[key] = tuple(value.split(",")) if key in LISTS else value
        if not {"text", "kind"} <= values.keys():
            raise UsageError(f"Columns need at least text=COLUMN and kind=harmful, benign or COLUMN; got {query!r}.")
        if values["kind"] in set(Kind):
            values["kind"] = Kind(values["kind"])
        return cls(**values)

    def prompt(self, row: Mapping[str, Any], default_id: str) -> Prompt:
        """The prompt in ``row``.

        Raises:
            DataError: a column is missing, all text columns are blank, or the kind is neither harmful nor benign.
        """
        return Prompt(
            text=self._text(row),
            kind=self._kind(row),
            id=_cell(row, self.id) or default_id,
            category=_cell(row, self.category),
            source=_cell(row, self.source),
            topic=_cell(row, self.topic),
            intent=_cell(row, self.intent),
        )

    def _text(self, row: Mapping[str, Any]) -> str:
        text = next(filter(str.strip, [_cell(row, column) for column in self.text]), None)
        if text is None:
            raise DataError(f"no text in {' or '.join(map(repr, self.text))}; fill the cell or remove the row.")
        context = _cell(row, self.context)
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
            f"{self.kind!r} must be one of {', '.join(map(repr, self.harmful))} (harmful) or "
            f"{', '.join(map(repr, self.benign))} (benign), got {value!r}; correct it, or say what it means with "
            "harmful=... or benign=..."
        )


def _cell(row: Mapping[str, Any], column: str) -> str:
    """The cell as text. A null is empty, and so is every cell of the column without a name."""
    if not column:
        return ""
    if column not in row:
        raise DataError(f"there is no column {column!r}; the columns are {', '.join(map(repr, row)) or 'none'}.")
    value = row[column]
    return "" if value is None else str(value)
