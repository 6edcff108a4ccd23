"""Stored games judged again by another judge: the pipeline behind ``waltz rejudge``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from waltz_env.errors import DataError, UsageError
from waltz_env.evaluation import compare_judges, same_labels
from waltz_env.evaluation.agreement import judge_names, texts
from waltz_env.experiments.results import Results, add_systems, made_by, read_results, stored_systems
from waltz_env.experiments.watch import Progress, Watch, quiet
from waltz_env.files import alone, writable_folder
from waltz_env.judges import load_judge
from waltz_env.judging import check_judge, judge_games
from waltz_env.protocols import Judge
from waltz_env.records import decode_game, encode_game, read_games, write_games
from waltz_env.results_file import JudgeAgreement, Rate
from waltz_env.run_folder import RunFolder
from waltz_env.types import Trajectory

AT_ONCE = 64  # games between two writes


def rejudge(paths: Sequence[Path], out: RunFolder, *, judge_name: str, progress: Progress = quiet) -> Results:
    """Judge stored games again. Verdicts are written as they come; what was judged before is not asked about again.

    Args:
        paths: files of games.
        out: folder for the games with the new labels and for ``results.json``.
        judge_name: the judge, by name.
        progress: told what has been done.

    Raises:
        UsageError: a file has no games, two files are of the same system, or ``out`` cannot be written, holds something
            else, or is another process's at the moment.
        DataError: a file of games is damaged.
        JudgeError: the judge has no verdict on a first question. Nothing has been judged in any of these cases.
    """
    before = stored_systems(paths)
    empty = [f"{system} of {name}" for name, systems in before.items() for system in systems if not systems[system]]
    if empty or not before:
        raise UsageError(f"There are no games to judge{' in ' * bool(empty)}{', '.join(empty)}.")
    if out.has_config() or any(path.resolve().is_relative_to(out.path.resolve()) for path in paths):
        raise UsageError(f"{out.path} is where the games come from. Choose another --out.")
    with alone(writable_folder(out.path)):
        writable_folder(out.held_out_games)
        return _rejudge(before, paths, out, judge_name=judge_name, progress=progress)


def _rejudge(
    before: Mapping[str, Mapping[str, Sequence[Trajectory]]],
    paths: Sequence[Path],
    out: RunFolder,
    *,
    judge_name: str,
    progress: Progress,
) -> Results:
    """Judge the games of each set and system that have no verdict in ``out`` yet."""
    earlier = read_results(out)
    if earlier and earlier.get("judge") != judge_name:
        raise UsageError(f"{out.path} holds verdicts of the judge {earlier.get('judge')!r}. Choose another --out.")
    known = {
        (name, system): _judged_before(out, name, system, games)
        for name, systems in before.items()
        for system, games in systems.items()
    }
    judge = load_judge(judge_name)
    check_judge(judge, judge_name)
    about: Results = {
        "judge": judge_name,
        "games": list(dict.fromkeys([*earlier.get("games", []), *map(str, paths)])),
        "judge_agreement": dict(earlier.get("judge_agreement", {})),
        "runs": earlier.get("runs", {}) | made_by(paths),
    }
    watch = Watch(len(known), progress)
    for (name, system), judged in known.items():
        games = before[name][system]
        watch.begin(f"{name}: {system}")
        after = _judge(games, judged, watch.judge(judge), out.unfinished_games_of_system(name, system))
        write_games(out.earlier_games_of_system(name, system), games, tokens=False)
        of_set = about["judge_agreement"].get(name, {})
        about["judge_agreement"][name] = of_set | {system: _agreement(games, after)}
        results = add_systems(out, {name: {system: after}}, about)
        out.unfinished_games_of_system(name, system).unlink(missing_ok=True)
        watch.end()
    return results


def _judge(
    games: Sequence[Trajectory], known: Mapping[int, Trajectory], judge: Judge, unfinished: Path
) -> list[Trajectory]:
    """The games with new verdicts. Each slice is appended to a file at once."""
    done = dict(known)
    waiting = [number for number in range(len(games)) if number not in done]
    with unfinished.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        for number in sorted(done):
            file.write(_line(number, done[number]))
        for start in range(0, len(waiting), AT_ONCE):
            numbers = waiting[start : start + AT_ONCE]
            for number, game in zip(numbers, judge_games([games[each] for each in numbers], judge), strict=True):
                done[number] = game
                file.write(_line(number, game))
            file.flush()
    return [done[number] for number in range(len(games))]


def _line(number: int, game: Trajectory) -> str:
    return f"{number} {encode_game(game, tokens=False)}\n"


def _judged_before(out: RunFolder, name: str, system: str, games: Sequence[Trajectory]) -> dict[int, Trajectory]:
    """Games with a verdict on every response from an interrupted or an earlier command, by their number.

    Raises:
        UsageError: they are not these games.
    """
    complete, unfinished = out.games_of_system(name, system), out.unfinished_games_of_system(name, system)
    found: dict[int, Trajectory] = {}
    if complete.exists():
        found = dict(enumerate(read_games(complete)))
    elif unfinished.exists():
        text = unfinished.read_text(encoding="utf-8", errors="surrogatepass")
        for line in text.split("\n"):
            position, _, content = line.partition(" ")
            try:
                found[int(position)] = decode_game(content)
            except (DataError, ValueError):
                break  # the line that the interruption cut
    for number, game in found.items():
        if number >= len(games) or texts(game) != texts(games[number]):
            raise UsageError(f"{out.path} holds verdicts on other games of {name}, {system}. Choose another --out.")
    return {number: game for number, game in found.items() if game.judged}


def _agreement(before: Sequence[Trajectory], after: Sequence[Trajectory]) -> JudgeAgreement:
    return {
        "judges": [judge_names(before), judge_names(after)],
        "same_labels": cast(Rate, same_labels(before, after).as_dict()),
        "rates": {name: found.as_dict() for name, found in compare_judges(before, after).items()},
    }
