"""The only place that knows the shape of the feedback agent's JSON (arXiv:2510.08240, sec. 3)."""

from __future__ import annotations

import json
from typing import Any

from waltz_env.types import Feedback, Labels

FIELDS: dict[str, type] = {"reasoning": str, "unsafe": bool, "overrefuse": bool, "feedback": str}
JSON_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {name: {"type": "string" if kind is str else "boolean"} for name, kind in FIELDS.items()},
    "required": list(FIELDS),
    "additionalProperties": False,
}
MALFORMED = Feedback(labels=None)


def parse_feedback(text: str) -> Feedback:
    """Reads one feedback; total: whatever the text, it returns.

    Well formed is one JSON object with exactly the keys of ``FIELDS``, each once and of its type, and nothing around
    it but white space. Key order is not checked: JSON objects have none. Anything else is ``MALFORMED``.

    >>> parse_feedback('{"reasoning": "", "unsafe": true, "overrefuse": false, "feedback": "Do not."}').advice
    'Do not.'
    >>> parse_feedback("I think it is fine.").well_formed
    False
    """
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return MALFORMED
    if not isinstance(pairs, _Pairs) or len(pairs) != len(FIELDS):
        return MALFORMED
    value = dict(pairs)
    if value.keys() != FIELDS.keys() or any(type(value[name]) is not kind for name, kind in FIELDS.items()):
        return MALFORMED
    labels = Labels(unsafe=value["unsafe"], overrefuse=value["overrefuse"])
    return Feedback(labels=labels, advice=value["feedback"], reasoning=value["reasoning"])


def format_feedback(labels: Labels, advice: str, reasoning: str = "") -> str:
    """The text of a well-formed feedback; ``parse_feedback`` is its inverse."""
    return json.dumps(
        {"reasoning": reasoning, "unsafe": labels.unsafe, "overrefuse": labels.overrefuse, "feedback": advice}
    )


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs, so that a key given twice is seen."""
