"""``waltz report``: one HTML file that shows what runs and evaluations found, with a browser of their games."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from waltz_env.cli.arguments import parse_into
from waltz_env.errors import UsageError
from waltz_env.files import writable_file
from waltz_env.report.page import write_report
from waltz_env.report.source import read_source
from waltz_env.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Report:
    """Write one HTML file that needs no network: tables, figures, training curves, and a browser of all games.

    For example: waltz report runs/mine results --out report.html

    Attributes:
        runs: folders of runs or evaluations, as ``waltz train`` and ``waltz evaluate`` left them.
        out: the file; report.html in the first folder by default.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    out: Path | None = None

    def run(self) -> int:
        """Write the report; see ``main`` for the exit code."""
        if not self.runs:
            raise UsageError("Name at least one folder of a run or an evaluation: waltz report RUN...")
        folders = [RunFolder(path) for path in self.runs]
        if self.out is not None:
            writable_file(self.out)
        sources = [read_source(folder, name) for folder, name in zip(folders, _names(self.runs), strict=True)]
        out = self.out or folders[0].report
        write_report(out, sources)
        count = sum(len(games) for source in sources for games in source.games.values())
        print(f"{out}: {count} games, {out.stat().st_size / 1e6:.1f} MB")
        return 0


def parse(arguments: Sequence[str]) -> Report:
    """The command with its arguments; see ``parse_into``."""
    return parse_into(Report, "report", arguments)


def _names(folders: Sequence[Path]) -> list[str]:
    """What the report calls each folder: the last parts of its path, as many as tell all folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise UsageError(f"A folder is named twice: {' '.join(map(str, folders))}. Name each once.")
    depth = next(n for n in range(1, max(map(len, parts)) + 1) if len({each[-n:] for each in parts}) == len(parts))
    return ["/".join(each[-depth:]) for each in parts]
