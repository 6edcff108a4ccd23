"""Games as the report's page reads them: one letter per game and filter, and the texts in compressed blocks.

The page reads the letters when it opens. It reads a block when one of its games is shown, so it opens as fast with many
games as with few.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from waltz_env.report.diff import changes
from waltz_env.report.tables import title
from waltz_env.types import Completion, Critique, Judgement, Labels, NoVerdict, Response, Trajectory

BLOCK = 200  # number of games
# Meanings of the letters for labels, in the words that the page shows.
LABELS = {
    "s": "satisfactory",
    "u": "unsafe",
    "o": "overrefusing",
    "b": "unsafe and overrefusing",
    "j": "not judged",
    "m": "malformed",
    "-": "no feedback",
}


@dataclass(frozen=True, slots=True)
class Group:
    """The games of one system on one set of prompts in one run."""

    run: str
    set: str
    system: str
    games: Sequence[Trajectory]


def letters(game: Trajectory) -> dict[str, str]:
    """Returns what a game can be filtered by: kind (``h``, ``b``), letters of ``LABELS``, facts (``1``, ``0``)."""
    draft, claimed = _judged(game.responses[0]), _claimed(game)
    completions = [response.completion for response in game.responses]
    completions += [critique.completion for critique in game.critiques]
    revisions = [
        (before.labels.ok, after.labels.ok)
        for before, _, after in game.revisions()
        if before.labels is not None and after.labels is not None
    ]
    facts = {
        "triggered": game.triggered,
        "improved": any(after and not before for before, after in revisions),
        "worsened": any(before and not after for before, after in revisions),
        "malformed": any(not critique.feedback.well_formed for critique in game.critiques),
        "mistaken": claimed in "suob" and draft != "j" and claimed != draft,
        "truncated": any(completion.truncated for completion in completions),
        "unjudged": not game.judged,
    }
    return {
        "kind": "h" if game.prompt.harmful else "b",
        "draft": draft,
        "final": _judged(game.final),
        "claimed": claimed,
        **{name: "1" if fact else "0" for name, fact in facts.items()},
    }


def pack(groups: Sequence[Group]) -> tuple[dict[str, Any], list[str]]:
    """Returns the index of all games, for JSON, and their texts in blocks of ``BLOCK`` games: JSON, gzip, base64.

    The index holds one string per key of ``letters``, with one letter per game, and one prompt number per game. Games
    of one set on the same prompt have the same number.
    """
    games = [game for group in groups for game in group.games]
    columns = [letters(game) for game in games]
    prompts: dict[tuple[str, str, str], int] = {}
    index = {
        "block": BLOCK,
        "labels": LABELS,
        "groups": [
            {"run": group.run, "set": group.set, "system": title(group.system), "count": len(group.games)}
            for group in groups
        ],
        "prompts": [
            prompts.setdefault((group.set, game.prompt.id, game.prompt.text), len(prompts))
            for group in groups
            for game in group.games
        ],
        "columns": {name: "".join(column[name] for column in columns) for name in (columns[0] if columns else ())},
    }
    return index, [_compressed(games[start : start + BLOCK]) for start in range(0, len(games), BLOCK)]


def content(game: Trajectory) -> dict[str, Any]:
    """Returns the texts of a game, for JSON. A revision is given as its changes to the response before it."""
    prompt = game.prompt
    return {
        "prompt": prompt.text,
        "history": prompt.history,
        "about": {
            name: value for name in ("id", "category", "topic", "source") if (value := getattr(prompt, name)) != ""
        },
        "responses": [
            _response(response, changes(game.responses[t - 1].text, response.text) if t else response.text)
            for t, response in enumerate(game.responses)
        ],
        "critiques": [_critique(critique) for critique in game.critiques],
    }


def _compressed(games: Sequence[Trajectory]) -> str:
    # ASCII, because models can write lone surrogates, which UTF-8 cannot encode.
    text = json.dumps([content(game) for game in games], separators=(",", ":"), ensure_ascii=True)
    return base64.b64encode(gzip.compress(text.encode("ascii"), mtime=0)).decode("ascii")


def _response(response: Response, text: object) -> dict[str, Any]:
    turn = {"text": text, "labels": _judged(response), **_finish(response.completion)}
    match response.judgement:
        case Judgement(judge=judge, rationale=rationale, scores=scores):
            return turn | {"judge": judge, "rationale": rationale, "scores": _named(scores)}
        case NoVerdict(reason):
            return turn | {"no_verdict": reason}
    return turn


def _critique(critique: Critique) -> dict[str, Any]:
    feedback, completion = critique.feedback, critique.completion
    return {
        "text": completion.text,
        "labels": _letter(feedback.labels, "m"),
        "advice": feedback.advice,
        "reasoning": feedback.reasoning,
        **_finish(completion),
    }


def _named(scores: Mapping[str, float]) -> str:
    """Writes scores as text: JSON has neither NaN nor infinity."""
    return ", ".join(f"{name} {score:.3g}" for name, score in scores.items())


def _finish(completion: Completion) -> dict[str, str]:
    return {"finish": completion.finish} if completion.truncated else {}


def _judged(response: Response) -> str:
    """Returns the letter of the judge's labels."""
    return _letter(response.labels, "j")


def _claimed(game: Trajectory) -> str:
    """Returns the letter of the flags of f_0."""
    return _letter(game.critiques[0].feedback.labels, "m") if game.critiques else "-"


def _letter(labels: Labels | None, missing: str) -> str:
    return missing if labels is None else "suob"[labels.unsafe + 2 * labels.overrefuse]
