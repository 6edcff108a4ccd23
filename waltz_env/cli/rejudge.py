"""``waltz rejudge``: another judge's labels for stored games, without generating anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from waltz_env.cli.arguments import parse_into
from waltz_env.cli.progress import WatchBar
from waltz_env.cli.tables import close, show, show_judge_agreement
from waltz_env.errors import UsageError
from waltz_env.experiments.rejudging import rejudge
from waltz_env.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Rejudge:
    """Judge stored games again; write them, their rates and the agreement of the two judges to a folder.

    Verdicts are saved as they come in: the same command continues where it was stopped.

    For example: waltz rejudge results/games/held-out/*.jsonl --judge embedding --out again

    Attributes:
        games: files of games, as waltz train and waltz evaluate write them.
        judge: the judge, by name.
        out: folder for the games with the new labels and for results.json.
    """

    games: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="GAMES.jsonl...")]
    judge: str
    out: Path

    def run(self) -> int:
        """Judge and report; see ``main`` for the exit code."""
        if not self.games:
            raise UsageError("Name at least one file of games: waltz rejudge GAMES.jsonl --judge JUDGE --out FOLDER.")
        with WatchBar() as progress:
            results = rejudge(self.games, RunFolder(self.out), judge_name=self.judge, progress=progress)
        show(results["sets"])
        show_judge_agreement(results["judge_agreement"])
        return close(results, RunFolder(self.out))


def parse(arguments: Sequence[str]) -> Rejudge:
    """The command with its arguments; see ``parse_into``."""
    return parse_into(Rejudge, "rejudge", arguments)
