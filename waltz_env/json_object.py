"""One flat JSON object of a known shape, as agents and judges are asked to answer with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_SPACE = "[ \t\n\r]"
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_PAIR = re.compile(
    rf"{_SPACE}*(?P<pair>(?P<key>{_STRING}){_SPACE}*:{_SPACE}*(?:{_STRING}|true|false)){_SPACE}*(?:,|\Z)", re.DOTALL
)
"""A key with its value, both complete: what follows is a comma, or nothing yet."""


def object_schema(fields: Mapping[str, type]) -> dict[str, Any]:
    """The JSON schema of an object with exactly these fields, in this order, each ``str`` or ``bool``."""
    return {
        "type": "object",
        "properties": {name: {"type": "string" if kind is str else "boolean"} for name, kind in fields.items()},
        "required": list(fields),
        "additionalProperties": False,
    }


def parse_object(text: str, fields: Mapping[str, type]) -> dict[str, Any] | None:
    """The JSON object in ``text``; None if the text is anything else. It never raises.

    The object must have exactly the keys of ``fields``, each of them once and with its type, and be surrounded by
    nothing but white space. The order of keys is not checked, since JSON objects have none.
    """
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, _Pairs) or len(pairs) != len(fields):
        return None
    value = dict(pairs)
    if value.keys() != fields.keys() or any(type(value[name]) is not kind for name, kind in fields.items()):
        return None
    return value


def close_object(text: str, fields: Mapping[str, type]) -> str | None:
    """The object that ``text`` begins, closed after its last complete pair. Strings not written yet are empty.

    None if ``text`` is not the beginning of an object with these fields, or lacks one that is not a string.

    >>> close_object('{"sure": true, "why": "Becau', {"sure": bool, "why": str})
    '{"sure": true, "why": ""}'
    """
    opened = text.lstrip(" \t\n\r")
    if not opened.startswith("{"):
        return None
    pairs: dict[str, str] = {}
    place = 1
    while found := _PAIR.match(opened, place):
        place = found.end()
        if found["key"] in pairs:
            return None
        pairs[found["key"]] = found["pair"]
    missing = {f'"{name}"': f'"{name}": ""' for name in fields if f'"{name}"' not in pairs}
    closed = "{" + ", ".join((pairs | missing).values()) + "}"
    return None if parse_object(closed, fields) is None else closed


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs, in which a key that was given twice still shows."""
