"""The JSONL format of prompts: the only place that knows its keys."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from waltz_env.errors import DataError
from waltz_env.prompts.rows import Row, Rows, read_rows
from waltz_env.types import Kind, Message, Prompt

ROLES = ("system", "user", "assistant")
OPTIONAL = ("id", "category", "source", "topic")


def read_prompts(lines: Iterable[bytes], name: str, *, stem: str) -> list[Prompt]:
    """Reads one prompt a line; blank lines are skipped, unknown keys ignored.

    Args:
        lines: the file's lines, UTF-8, with or without a byte order mark.
        name: what errors call the file.
        stem: a line without an ``id`` gets ``"{stem}:{line number}"``, lines counted from 1.

    Raises:
        DataError: a line is no prompt, or an id stands twice; the message gives the file, the line and the reason.
    """
    return read_rows(read_objects(lines, name), lambda row: parse_prompt(row.cells, f"{stem}:{row.number}"))


def read_objects(lines: Iterable[bytes], name: str) -> Rows:
    """One JSON object a line, of any keys; blank lines are skipped.

    Raises:
        DataError: a line is not UTF-8, not JSON or no object; the message gives the file and the line.
    """
    for number, line in enumerate(lines, 1):
        place = f"{name}, line {number}"
        try:
            text = line.decode("utf-8-sig").strip()
            if text:
                yield Row(number, place, _object(text))
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: not UTF-8 ({error.reason} at byte {error.start}).") from error
        except DataError as error:
            raise DataError(f"{place}: {error}") from error.__cause__


def parse_prompt(row: Mapping[str, Any], default_id: str) -> Prompt:
    """The prompt in an object with the keys of the format; other keys are ignored.

    Raises:
        DataError: a key is missing or of the wrong type or value.
    """
    optional = {key: _string(row, key) for key in OPTIONAL if row.get(key) not in (None, "")}
    return Prompt(
        text=_text(row),
        kind=_kind(row),
        **{"id": default_id, **optional},
        history=_history(row.get("history")),
    )


def format_prompt(prompt: Prompt) -> bytes:
    r"""One line, UTF-8, with its line feed; what ``parse_prompt`` reads. Empty fields are left out.

    Text stays readable: only what UTF-8 cannot hold (a lone surrogate) is escaped, and the codec's ``\udcxx`` is just
    how JSON writes it.
    """
    row: dict[str, Any] = {"text": prompt.text, "kind": prompt.kind.value}
    row |= {key: getattr(prompt, key) for key in OPTIONAL if getattr(prompt, key)}
    if prompt.history:
        row["history"] = [{"role": message["role"], "content": message["content"]} for message in prompt.history]
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _object(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except RecursionError as error:
        raise DataError("not JSON that can be read: nested too deeply.") from error
    except ValueError as error:
        raise DataError(f"not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise DataError(f"expected a JSON object such as {{'text': ..., 'kind': ...}}, got {_show(row)}.")
    return row


def _text(row: Mapping[str, Any]) -> str:
    text = _string(row, "text")
    if not text.strip():
        raise DataError("'text' is empty.")
    return text


def _kind(row: Mapping[str, Any]) -> Kind:
    kind = _string(row, "kind")
    if kind not in set(Kind):
        raise DataError(f"'kind' must be 'harmful' or 'benign', got {_show(kind)}.{_nearest(kind, Kind)}")
    return Kind(kind)


def _history(messages: object) -> tuple[Message, ...]:
    if messages is None:
        return ()
    if not isinstance(messages, list):
        raise DataError(f"'history' must be a list of {{'role', 'content'}} objects, got {_show(messages)}.")
    history = tuple(_message(message, index) for index, message in enumerate(messages))
    if history and history[-1]["role"] == "user":
        raise DataError("'history' ends with a user's message; the last one is the prompt's 'text' and stands there.")
    return history


def _message(message: object, index: int) -> Message:
    if not isinstance(message, dict):
        raise DataError(f"'history[{index}]' must be a {{'role', 'content'}} object, got {_show(message)}.")
    role, content = (_string(message, key, f"history[{index}].{key}") for key in ("role", "content"))
    if role not in ROLES:
        raise DataError(f"'history[{index}].role' must be one of {ROLES}, got {_show(role)}.{_nearest(role, ROLES)}")
    return Message(role=role, content=content)


def _string(row: Mapping[str, Any], key: str, label: str = "") -> str:
    if key not in row:
        raise DataError(f"'{label or key}' is missing.")
    if not isinstance(row[key], str):
        raise DataError(f"'{label or key}' must be a string, got {_show(row[key])}.")
    return row[key]


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.strip().lower(), [str(one) for one in known], n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _show(value: object) -> str:
    shown = repr(value)
    return f"{shown[:60]}{'...' if len(shown) > 60 else ''} ({type(value).__name__})"
