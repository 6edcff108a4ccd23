"""The JSONL format of prompts. No other module knows its keys."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from waltz_env.errors import DataError, did_you_mean
from waltz_env.prompts.rows import TableRow, TableRows, parse_rows
from waltz_env.types import Kind, Message, Prompt

ROLES = ("system", "user", "assistant")
OPTIONAL = ("id", "category", "source", "topic", "intent")


def read_prompts(lines: Iterable[bytes], name: str, *, stem: str) -> list[Prompt]:
    """Reads one prompt per line; blank lines are skipped and unknown keys are ignored.

    Args:
        lines: lines of the file, UTF-8, with or without a byte order mark.
        name: name of the file in error messages.
        stem: a line without an ``id`` gets ``"{stem}:{line number}"``, with lines counted from 1.

    Raises:
        DataError: a line cannot be parsed, or an id is a duplicate; the message gives file, line and reason.
    """
    return parse_rows(read_objects(lines, name), lambda row: parse_prompt(row.cells, f"{stem}:{row.number}"))


def read_objects(lines: Iterable[bytes], name: str) -> TableRows:
    """Reads one JSON object per line, with any keys; blank lines are skipped.

    Raises:
        DataError: a line is not UTF-8, not a JSON object, or has a key twice; the message gives the file and the line.
    """
    for number, line in enumerate(lines, 1):
        place = f"{name}, line {number}"
        try:
            text = line.decode("utf-8-sig").strip()
            if text:
                yield TableRow(number, place, _object(text))
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: not UTF-8 ({error.reason} at byte {error.start}).") from error
        except DataError as error:
            raise DataError(f"{place}: {error}") from error.__cause__


def parse_prompt(row: Mapping[str, Any], default_id: str) -> Prompt:
    """The prompt in an object with the keys of the format; other keys are ignored.

    Raises:
        DataError: a key is missing, or its value has the wrong type or is not allowed.
    """
    optional = {key: _string(row, key) for key in OPTIONAL if row.get(key) not in (None, "")}
    return Prompt(
        text=_text(row),
        kind=_kind(row),
        **{"id": default_id, **optional},
        history=_history(row.get("history")),
    )


def format_prompt(prompt: Prompt) -> bytes:
    r"""The prompt as one line of UTF-8, with its line feed, for ``parse_prompt`` to read. Empty fields are left out.

    Text stays readable: only lone surrogates, which UTF-8 cannot encode, are escaped. The escape ``\udcxx`` of Python's
    codec happens to be JSON's.
    """
    row: dict[str, Any] = {"text": prompt.text, "kind": prompt.kind.value}
    row |= {key: getattr(prompt, key) for key in OPTIONAL if getattr(prompt, key)}
    if prompt.history:
        row["history"] = [{"role": message["role"], "content": message["content"]} for message in prompt.history]
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _object(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError as error:
        raise DataError("the JSON is nested too deeply to be read.") from error
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise DataError(f"expected a JSON object such as {{'text': ..., 'kind': ...}}, got {_show(row)}.")
    return row


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise DataError(f"the key {twice!r} is there twice; remove one.")
    return dict(pairs)


def _text(row: Mapping[str, Any]) -> str:
    text = _string(row, "text")
    if not text.strip():
        raise DataError("'text' is empty.")
    return text


def _kind(row: Mapping[str, Any]) -> Kind:
    kind = _string(row, "kind")
    if kind not in set(Kind):
        raise DataError(
            f"'kind' must be 'harmful' or 'benign', got {_show(kind)}.{did_you_mean(kind.strip().lower(), Kind)}"
        )
    return Kind(kind)


def _history(messages: object) -> tuple[Message, ...]:
    if messages is None:
        return ()
    if not isinstance(messages, list):
        raise DataError(f"'history' must be a list of {{'role', 'content'}} objects, got {_show(messages)}.")
    history = tuple(_message(message, index) for index, message in enumerate(messages))
    if history and history[-1]["role"] == "user":
        raise DataError("'history' ends with a user's message; the user's last message belongs in 'text'.")
    return history


def _message(message: object, index: int) -> Message:
    if not isinstance(message, dict):
        raise DataError(f"'history[{index}]' must be a {{'role', 'content'}} object, got {_show(message)}.")
    role, content = (_string(message, key, f"history[{index}].{key}") for key in ("role", "content"))
    if role not in ROLES:
        hint = did_you_mean(role.strip().lower(), ROLES)
        raise DataError(f"'history[{index}].role' must be one of {ROLES}, got {_show(role)}.{hint}")
    return Message(role=role, content=content)


def _string(row: Mapping[str, Any], key: str, label: str = "") -> str:
    if key not in row:
        raise DataError(f"'{label or key}' is missing.")
    if not isinstance(row[key], str):
        raise DataError(f"'{label or key}' must be a string, got {_show(row[key])}.")
    return row[key]


def _show(value: object) -> str:
    shown = repr(value)
    return f"{shown[:60]}{'...' if len(shown) > 60 else ''} ({type(value).__name__})"
