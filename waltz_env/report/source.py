"""What a run or an evaluation left, read for the report."""

from __future__ import annotations

from waltz_env.errors import UsageError, did_you_mean
from waltz_env.records import read_games
from waltz_env.report.tables import Source
from waltz_env.results_file import read_results
from waltz_env.run_folder import RunFolder


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
    return Source(
        name,
        folder.path,
        results,
        folder.read_metrics(),
        folder.read_config() if folder.has_config() else {},
        {key: read_games(path) for key, path in paths.items() if path.exists()},  # a gap elsewhere is a dash
    )


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
