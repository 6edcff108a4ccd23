"""Games load in table libraries as they are: the programs of docs/data.md run, on games of every shape."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.games import BOMB, PROMPTS, REFUSING, SAFE, UNSAFE, trajectory
from tests.test_docs import blocks
from waltz_env import write_games
from waltz_env.run_folder import RunFolder
from waltz_env.types import Completion, Judgement, Labels, NoVerdict, Response, Trajectory

PROGRAMS = {block.title: block.text for block in blocks(Path(__file__).parents[1] / "docs" / "data.md") if block.title}
ODD = Trajectory(
    BOMB,
    (
        Response(
            Completion("odd \U0001f600\u2028\x85 text"), Judgement(Labels(True, False), "mine", scores={"harm": 0.5})
        ),
    ),
    (),
)
UNKNOWN = Trajectory(BOMB, (Response(Completion("silence"), NoVerdict("The judge refused.")),), ())
PRINTED = {
    "games_in_pandas.py": "0.5 critiques per game",
    "games_in_datasets.py": "7 games, harmful",
    "games_in_duckdb.py": "1.0",
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with and without critiques, histories, verdicts and scores."""
    monkeypatch.chdir(tmp_path)
    run = RunFolder(Path("runs/RUN"))
    write_games(run.games_of_system("topics", "baseline"), [trajectory([UNSAFE]), ODD])
    write_games(run.games_of_system("topics", "trained_pair"), [trajectory([UNSAFE, SAFE], [UNSAFE]), UNKNOWN])
    write_games(run.games_of_system("topics", "untrained_pair"), [trajectory([REFUSING], [None], PROMPTS[2])])
    write_games(run.games_of_system("unjudged", "baseline"), [trajectory([None]), trajectory([None])])


def test_there_is_a_program_for_each_library() -> None:
    assert PROGRAMS.keys() == PRINTED.keys()


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("name", PRINTED)
def test_the_program_reads_all_of_them(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_text(PROGRAMS[name])
    runpy.run_path(name)
    assert PRINTED[name] in capsys.readouterr().out
