"""One flat JSON object of a known shape: what agents and judges are asked to answer with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def object_schema(fields: Mapping[str, type]) -> dict[str, Any]:
    """The JSON schema of an object with exactly these fields, in this order, each ``str`` or ``bool``."""
    return {
        "type": "object",
        "properties": {name: {"type": "string" if kind is str else "boolean"} for name, kind in fields.items()},
        "required": list(fields),
        "additionalProperties": False,
    }


def parse_object(text: str, fields: Mapping[str, type]) -> dict[str, Any] | None:
    """The object that ``text`` is, or None; total: whatever the text, it returns.

    Well formed is one JSON object with exactly these keys, each once and of its type, and nothing around it but white
    space. Key order is not checked: JSON objects have none.
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


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs, so that a key given twice is seen."""
