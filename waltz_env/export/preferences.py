"""Drafts and revisions as data for preference learning and supervised fine-tuning, in TRL's conversational format.

A row's ``prompt`` is the user's chat, without the conversation agent's own system prompt: a model learns to answer at
once as the pair does. Only judged games count, and equal rows count once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from waltz_env.errors import UsageError
from waltz_env.files import atomic_path, writable_file
from waltz_env.strict_json import dump_json
from waltz_env.types import Message, Prompt, Trajectory
from waltz_env.untrusted_text import encodable

Row = dict[str, list[Message]]


def preference_rows(games: Iterable[Trajectory]) -> list[Row]:
    """A row for each revision that is satisfactory where the response before it was not, or the other way round.

    Args:
        games: judged games; others are left out.

    Returns:
        Rows of ``prompt``, ``chosen`` and ``rejected``, as ``trl.DPOTrainer`` takes them.
    """
    rows = []
    for game in games:
        for before, _, after in game.revisions():
            if before.labels and after.labels and before.labels.ok != after.labels.ok:
                chosen, rejected = (after, before) if after.labels.ok else (before, after)
                rows.append(
                    {"prompt": _chat(game.prompt), "chosen": _answer(chosen.text), "rejected": _answer(rejected.text)}
                )
    return _distinct(rows)


def supervised_rows(games: Iterable[Trajectory]) -> list[Row]:
    """A row for each game whose final response is satisfactory.

    Args:
        games: judged games; others are left out.

    Returns:
        Rows of ``prompt`` and ``completion``, as ``trl.SFTTrainer`` takes them.
    """
    return _distinct(
        [
            {"prompt": _chat(game.prompt), "completion": _answer(game.final.text)}
            for game in games
            if game.responses and game.final.labels and game.final.labels.ok
        ]
    )


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSONL.

    Raises:
        UsageError: there are none, or the file cannot be written.
    """
    if not rows:
        raise UsageError(f"No judged game gives a row for {path}.")
    writable_file(path)
    with atomic_path(path) as temporary:
        temporary.write_text("".join(dump_json(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _chat(prompt: Prompt) -> list[Message]:
    messages = [*prompt.history, Message(role="user", content=prompt.text)]
    return [Message(role=each["role"], content=encodable(each["content"])) for each in messages]


def _answer(text: str) -> list[Message]:
    return [Message(role="assistant", content=encodable(text))]


def _distinct(rows: Sequence[Row]) -> list[Row]:
    return list({dump_json(row): row for row in rows}.values())
