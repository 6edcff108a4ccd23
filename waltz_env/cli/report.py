"""``waltz report``: one HTML file that shows what runs and evaluations found, with a browser of their games."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from waltz_env.algorithms.training.run_log import read_metrics
from waltz_env.cli.results import RESULTS, games_path
from waltz_env.errors import DataError, UsageError, unknown_name
from waltz_env.presets.run import CONFIG, is_run
from waltz_env.records import read_games
from waltz_env.report.page import write_report
from waltz_env.report.tables import Source


@dataclass(frozen=True)
class Report:
    """Writes one HTML file that needs no network: tables, figures, training curves, and a browser of all games.

    Attributes:
        runs: folders of runs or evaluations, as ``waltz train`` and ``waltz evaluate`` left them.
        out: the file; report.html in the first folder by default.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    out: Path | None = None

    def run(self) -> int:
        """Writes the report; see ``main`` for the exit code."""
        if not self.runs:
            raise UsageError("Name at least one folder of a run or an evaluation: waltz report RUN...")
        sources = [read_source(folder, name) for folder, name in zip(self.runs, _names(self.runs), strict=True)]
        out = self.out or self.runs[0] / "report.html"
        write_report(out, sources)
        count = sum(len(games) for source in sources for games in source.games.values())
        console = Console()
        console.print(f"{out}: {count} games, {out.stat().st_size / 1e6:.1f} MB", highlight=False, soft_wrap=True)
        return 0


def read_source(folder: Path, name: str) -> Source:
    """What a run or an evaluation left in ``folder``.

    Raises:
        UsageError: there are no results.
        DataError: a file is damaged; the message names it, and the line in a file of games.
    """
    if not (folder / RESULTS).is_file():
        raise _no_results(folder)
    results = _read_json(folder / RESULTS)
    sets = results.get("sets")
    if not isinstance(sets, dict) or not all(isinstance(each, dict) and "systems" in each for each in sets.values()):
        raise DataError(f"{folder / RESULTS} must hold 'sets', each with 'systems'; it does not. Evaluate again.")
    paths = {
        (each, system): games_path(folder, each, system)
        for each, content in sets.items()
        for system in content["systems"]
    }
    return Source(
        name,
        folder,
        results,
        read_metrics(folder),
        _read_json(folder / CONFIG) if is_run(folder) else {},
        {key: read_games(path) for key, path in paths.items() if path.exists()},
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} must hold a JSON object; got a {type(found).__name__}.")
    return found


def _no_results(folder: Path) -> UsageError:
    if not folder.is_dir():
        beside = folder.parent.glob(f"*/{RESULTS}") if folder.parent.is_dir() else ()
        return unknown_name(
            f"folder with results in {folder.parent}:", folder.name, [path.parent.name for path in beside]
        )
    if is_run(folder):
        return UsageError(f"The run in {folder} has no results yet. Finish it: waltz train --resume {folder}")
    below = sorted(str(path.parent) for path in folder.glob(f"*/{RESULTS}"))
    hint = f" Did you mean {' '.join(below)}?" if below else " Evaluate a run: waltz evaluate RUN --out FOLDER."
    return UsageError(f"{folder} holds no {RESULTS}, so it is neither a run nor an evaluation.{hint}")


def _names(folders: Sequence[Path]) -> list[str]:
    """What the report calls each folder: the last parts of its path, as many as tell all folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise UsageError(f"A folder is named twice: {' '.join(map(str, folders))}. Name each once.")
    depth = next(n for n in range(1, max(map(len, parts)) + 1) if len({each[-n:] for each in parts}) == len(parts))
    return ["/".join(each[-depth:]) for each in parts]
