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
    """The games of one system on one set of prompts in one run; ``earlier``: as the judge before labeled them."""

    run: str
    set: str
    system: str
    games: Sequence[Trajectory]
    earlier: Sequence[Trajectory] = ()

    def pairs(self) -> list[tuple[Trajectory, Trajectory | None]]:
        """Returns each game with the same game under the judge before, if there was one."""
        earlier: Sequence[Trajectory | None] = self.earlier or [None] * len(self.games)
        return list(zip(self.games, earlier, strict=True))


def letters(game: Trajectory, earlier: Trajectory | None = None) -> dict[str, str]:
    """Returns what a game can be filtered by: kind (``h``, ``b``), letters of ``LABELS``, facts (``1``, ``0``).

    Args:
        game: the game.
        earlier: the same game under the judge before.
    """
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
        "differ": earlier is not None and any(map(_differ, earlier.responses, game.responses)),
    }
    return {
        "kind": "h" if game.prompt.harmful else "b",
        "draft": draft,
        "final": _judged(game.final),
        "earlier": "-" if earlier is None else _judged(earlier.final),
        "claimed": claimed,
        **{name: "1" if fact else "0" for name, fact in facts.items()},
    }


def pack(groups: Sequence[Group]) -> tuple[dict[str, Any], list[str]]:
    """Returns the index of all games, for JSON, and their texts in blocks of ``BLOCK`` games: JSON, gzip, base64.

    The index holds one string per key of ``letters``, with one letter per game, and two numbers per game: that of its
    prompt, which games of one set on the same prompt share, and that of its category.
    """
    games = [pair for group in groups for pair in group.pairs()]
    columns = [letters(game, earlier) for game, earlier in games]
    categories = sorted({game.prompt.category for game, _ in games})
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
        "categories": categories,
        "category": [categories.index(game.prompt.category) for game, _ in games],
        "columns": {name: "".join(column[name] for column in columns) for name in (columns[0] if columns else ())},
    }
    return index, [_compressed(games[start : start + BLOCK]) for start in range(0, len(games), BLOCK)]


def content(game: Trajectory, earlier: Trajectory | None = None) -> dict[str, Any]:
    """Returns the texts of a game, for JSON. A revision is given as its changes to the response before it.

    Args:
        game: the game.
        earlier: the same game under the judge before.
    """
    prompt = game.prompt
    before = [None] * len(game.responses) if earlier is None else earlier.responses
    return {
        "prompt": prompt.text,
        "history": prompt.history,
        "about": {
            name: value
            for name in ("id", "category", "topic", "intent", "source")
            if (value := getattr(prompt, name)) != ""
        },
        "responses": [
            {"text": changes(game.responses[t - 1].text, response.text) if t else response.text}
            | _verdict(response)
            | _finish(response.completion)
            | ({} if old is None else {"earlier": _verdict(old)})
            for t, (response, old) in enumerate(zip(game.responses, before, strict=True))
        ],
        "critiques": [_critique(critique) for critique in game.critiques],
    }


def _compressed(games: Sequence[tuple[Trajectory, Trajectory | None]]) -> str:
    # ASCII, because models can write lone surrogates, which UTF-8 cannot encode.
    text = json.dumps([content(*pair) for pair in games], separators=(",", ":"), ensure_ascii=True)
    return base64.b64encode(gzip.compress(text.encode("ascii"), mtime=0)).decode("ascii")


def _verdict(response: Response) -> dict[str, str]:
    labels = {"labels": _judged(response)}
    match response.judgement:
        case Judgement(judge=judge, rationale=rationale, scores=scores):
            return labels | {"judge": judge, "rationale": rationale, "scores": _named(scores)}
        case NoVerdict(reason):
            return labels | {"no_verdict": reason}
    return labels


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


def _differ(one: Response, other: Response) -> bool:
    """Returns whether two judges give different labels; where one of them has no verdict, nobody knows."""
    return one.labels is not None and other.labels is not None and one.labels != other.labels


def _judged(response: Response) -> str:
    """Returns the letter of the judge's labels."""
    return _letter(response.labels, "j")


def _claimed(game: Trajectory) -> str:
    """Returns the letter of the flags of f_0."""
    return _letter(game.critiques[0].feedback.labels, "m") if game.critiques else "-"


def _letter(labels: Labels | None, missing: str) -> str:
    return missing if labels is None else "suob"[labels.unsafe + 2 * labels.overrefuse]
