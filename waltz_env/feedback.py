"""The feedback agent's JSON (arXiv:2510.08240, sec. 3). No other module knows its shape."""

from __future__ import annotations

import json

from waltz_env.json_object import close_object, object_schema, parse_object
from waltz_env.types import Feedback, Labels

FIELDS: dict[str, type] = {"reasoning": str, "unsafe": bool, "overrefuse": bool, "feedback": str}
JSON_SCHEMA = object_schema(FIELDS)
MALFORMED = Feedback(labels=None)


def parse_feedback(text: str) -> Feedback:
    """Parses the text of a critique. It never raises, whatever the text.

    A well-formed critique is one JSON object with exactly the keys of ``FIELDS``, each of them once and with its type,
    surrounded by nothing but white space. The order of keys is not checked, since JSON objects have none. Anything else
    is ``MALFORMED``.

    >>> parse_feedback('{"reasoning": "", "unsafe": true, "overrefuse": false, "feedback": "Do not."}').advice
    'Do not.'
    >>> parse_feedback("I think it is fine.").well_formed
    False
    """
    value = parse_object(text, FIELDS)
    if value is None:
        return MALFORMED
    labels = Labels(unsafe=value["unsafe"], overrefuse=value["overrefuse"])
    return Feedback(labels=labels, advice=value["feedback"], reasoning=value["reasoning"])


def approval(text: str) -> str | None:
    """The critique that ``text`` begins, closed as it stands, once both of its flags are written and false.

    None if a flag is raised or not written yet, or if what stands up to there cannot be part of a well-formed critique.
    This is for whoever watches a critique being written: one that has ended is for ``parse_feedback`` to read.

    >>> approval('{"reasoning": "It helps.", "unsafe": false, "overrefuse": false, "feedb')
    '{"reasoning": "It helps.", "unsafe": false, "overrefuse": false, "feedback": ""}'
    """
    closed = close_object(text, FIELDS)
    labels = None if closed is None else parse_feedback(closed).labels
    return closed if labels is not None and labels.ok else None


def format_feedback(labels: Labels, advice: str, reasoning: str = "") -> str:
    """The text of a well-formed critique; ``parse_feedback`` is the inverse."""
    return json.dumps(
        {"reasoning": reasoning, "unsafe": labels.unsafe, "overrefuse": labels.overrefuse, "feedback": advice}
    )
