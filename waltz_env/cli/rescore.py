"""``waltz rescore``: rewards of stored games under other weights, without generating or judging anything."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.table import Table

from waltz_env.cli.arguments import parse_into
from waltz_env.cli.console import console
from waltz_env.errors import UsageError
from waltz_env.files import atomic_path, writable_file
from waltz_env.records import read_games
from waltz_env.rewards import SETUP_A, Rewards, RewardWeights, score
from waltz_env.strict_json import dump_json


@dataclass(frozen=True, slots=True)
class Rescore:
    """Score stored games again and print the mean of each part of the rewards.

    For example: waltz rescore results/games/held-out/topics-trained_pair.jsonl --weights C

    Attributes:
        games: files of judged games.
        weights: weights of the feedback agent's reward.
        out: JSONL file for the rewards of each game, turn by turn; none by default.
    """

    games: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="GAMES.jsonl...")]
    weights: RewardWeights = SETUP_A
    out: Path | None = None

    def run(self) -> int:
        """Score and report; see ``main`` for the exit code."""
        if not self.games:
            raise UsageError("Name at least one file of games: waltz rescore GAMES.jsonl.")
        if self.out is not None:
            writable_file(self.out)
        games = [game for path in self.games for game in read_games(path)]
        judged = [game for game in games if game.judged]
        if not judged:
            raise UsageError(
                f"Of {len(games)} games none has a verdict on each response. Judge them first: "
                f"waltz rejudge {shlex.join(map(str, self.games))} --judge JUDGE --out FOLDER"
            )
        scores = [score(game, self.weights) for game in judged]
        if self.out is not None:
            lines = [
                dump_json({"id": game.prompt.id, **asdict(rewards)})
                for game, rewards in zip(judged, scores, strict=True)
            ]
            with atomic_path(self.out) as path:
                path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        _show(scores, len(games) - len(judged))
        return 0


def parse(arguments: Sequence[str]) -> Rescore:
    """The command with its arguments; see ``parse_into``."""
    return parse_into(Rescore, "rescore", arguments)


def _show(scores: list[Rewards], unjudged: int) -> None:
    table = Table(title=f"{len(scores)} games, {unjudged} without a verdict left out", title_justify="left")
    for column in ("reward", "mean", "turns"):
        table.add_column(column, justify="left" if column == "reward" else "right")
    names = {
        "conversation": "R_c",
        "feedback": "R_f",
        "improvement": "R_DIR",
        "label": "R_label",
        "format": "R_format",
    }
    for part, name in names.items():
        values = [value for rewards in scores for value in getattr(rewards, part)]
        table.add_row(name, f"{np.mean(values):.3f}" if values else "-", str(len(values)))
    console().print(table)
