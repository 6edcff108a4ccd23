"""``waltz rejudge``: another judge's labels for stored games, without generating anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from waltz_env.cli.arguments import parse_into
from waltz_env.cli.tables import show
from waltz_env.errors import UsageError
from waltz_env.experiments.results import Results, add_systems, stored_systems
from waltz_env.judges import load_judge
from waltz_env.judging import judge_games
from waltz_env.run_folder import RunFolder
from waltz_env.types import Trajectory


@dataclass(frozen=True, slots=True)
class Rejudge:
    """Judge stored games again; write them, their rates and the agreement of the two judges to a folder.

    Attributes:
        games: files of games, as ``waltz train`` and ``waltz evaluate`` write them.
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
        judge = load_judge(self.judge)
        before = stored_systems(self.games)
        after = {
            name: {system: judge_games(games, judge) for system, games in systems.items()}
            for name, systems in before.items()
        }
        agreement = {
            f"{name}/{system}": _agreement(games, after[name][system])
            for name, systems in before.items()
            for system, games in systems.items()
        }
        about: Results = {"judge": self.judge, "games": [str(path) for path in self.games], "agreement": agreement}
        show(add_systems(RunFolder(self.out), after, about)["sets"])
        for name, share in agreement.items():
            text = "no verdicts to compare" if share is None else f"{100 * share:.1f} % of responses keep their labels"
            print(f"{name}: {text}")
        return 0


def parse(arguments: Sequence[str]) -> Rejudge:
    """The command with its arguments; see ``parse_into``."""
    return parse_into(Rejudge, "rejudge", arguments)


def _agreement(before: Sequence[Trajectory], after: Sequence[Trajectory]) -> float | None:
    pairs = [
        (old.labels, new.labels)
        for one, other in zip(before, after, strict=True)
        for old, new in zip(one.responses, other.responses, strict=True)
        if old.labels is not None and new.labels is not None
    ]
    return sum(old == new for old, new in pairs) / len(pairs) if pairs else None
