"""What a run or an evaluation left, read for the report."""

from __future__ import annotations

from collections.abc import Sequence

from waltz_env.errors import DataError, UsageError, did_you_mean
from waltz_env.evaluation.agreement import paired_games
from waltz_env.records import read_games
from waltz_env.report.tables import Source
from waltz_env.results_file import read_results
from waltz_env.run_folder import RunFolder
from waltz_env.types import Trajectory


def read_source(folder: RunFolder, name: str) -> Source:
    """Results, metrics, settings and games in ``folder``.

    Args:
        folder: folder of a run or an evaluation.
        name: what the report calls it.

    Raises:
        UsageError: there are no results.
        DataError: a file is damaged; the message names it, and the line in a file of games.
    """
    if not folder.results.is_file():
        raise _no_results(folder)
    results = read_results(folder)
    sets = results.get("sets", {})
    paths = {
        (prompt_set, system): folder.games_of_system(prompt_set, system)
        for prompt_set, content in sets.items()
        for system in content["systems"]
    }
    games = {key: read_games(path) for key, path in paths.items() if path.exists()}  # a gap elsewhere is a dash
    return Source(
        name,
        folder.path,
        results,
        folder.read_metrics(),
        folder.read_config() if folder.has_config() else {},
        games,
        {key: earlier for key, judged in games.items() if (earlier := _earlier(folder, key, judged))},
    )


def _earlier(folder: RunFolder, key: tuple[str, str], games: Sequence[Trajectory]) -> list[Trajectory]:
    """The games of one system under the judge before; none if there was one judge.

    Raises:
        DataError: they are other games.
    """
    path = folder.earlier_games_of_system(*key)
    if not path.exists():
        return []
    earlier = read_games(path)
    try:
        paired_games(earlier, games)
    except UsageError as error:
        raise DataError(f"{path} does not hold the games of {folder.games_of_system(*key)}. Judge again.") from error
    return earlier


def _no_results(folder: RunFolder) -> UsageError:
    path, file = folder.path, folder.results.name
    if not path.is_dir():
        beside = path.parent.glob(f"*/{file}") if path.parent.is_dir() else ()
        names = [each.parent.name for each in beside]
        return UsageError(f"There is no folder {path}.{did_you_mean(path.name, names)}")
    if folder.has_config():
        return UsageError(f"The run in {path} has no results yet. Finish it: waltz train --resume {path}")
    below = sorted(str(each.parent) for each in path.glob(f"*/{file}"))
    hint = f" Did you mean {' '.join(below)}?" if below else " Evaluate a run: waltz evaluate RUN --out FOLDER."
    return UsageError(f"{path} holds no {file}, so it is neither a run nor an evaluation.{hint}")
