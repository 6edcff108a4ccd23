"""Two real processes that start at once: a folder goes to one of them, and folders of no name never collide."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from waltz_env.cli import main
from waltz_env.errors import UsageError
from waltz_env.experiments.saved_run import read_recipe
from waltz_env.files import alone
from waltz_env.run_folder import RunFolder

# Imports everything, says that it is ready, and goes on when the other one is ready too.
WAIT = """
import sys
from pathlib import Path
from tests.waiting import wait_until
from waltz_env.cli import main
import waltz_env.experiments.run, waltz_env.cli.train, tests.tiny_preset
mine, other, *arguments = sys.argv[1:]
Path(mine).touch()
wait_until(Path(other).exists, every=0.001, seconds=120)
sys.exit(main(["train", *arguments]))
"""

NEW = ["--preset", "tests.tiny_preset:PRESET"]


def start_at_once(folder: Path, *arguments: list[str]) -> list[tuple[int, str]]:
    """Runs ``waltz train`` with each list of arguments in ``folder``; returns exit codes and standard errors."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WAIT, str(folder / f"ready{i}"), str(folder / f"ready{1 - i}"), *own],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, own in enumerate(arguments)
    ]
    finished = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, errors) for process, (_, errors) in zip(processes, finished, strict=True)]


def check_whole(folder: RunFolder, seed: int) -> None:
    """One run, from its settings to its results, and nothing of another one."""
    assert read_recipe(folder).seed == seed
    assert [line["step"] for line in folder.read_metrics()] == [1, 2]
    assert json.loads(folder.results.read_text())["seed"] == seed
    assert len(list(folder.training_games.iterdir())) == 2


def test_one_of_two_runs_gets_the_folder_and_the_other_is_told(tmp_path: Path) -> None:
    outcomes = start_at_once(tmp_path, [*NEW, "--out", "same", "--seed", "1"], [*NEW, "--out", "same", "--seed", "2"])
    assert sorted(code for code, _ in outcomes) == [0, 2]
    (seed,) = [seed for seed, (code, _) in zip((1, 2), outcomes, strict=True) if code == 0]
    (said,) = [errors for code, errors in outcomes if code == 2]
    assert "holds a run already" in said
    check_whole(RunFolder(tmp_path / "same"), seed)


def test_default_folders_of_two_runs_differ(tmp_path: Path) -> None:
    outcomes = start_at_once(tmp_path, [*NEW, "--stage-1.steps", "1"], [*NEW, "--feedback.beta", "0.5"])
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    folders = sorted((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    for folder in folders:
        check_whole(RunFolder(folder), 0)


def test_a_run_that_is_being_continued_is_not_continued_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *NEW, "--out", "run", "--seed", "3"]) == 0
    folder = RunFolder(tmp_path / "run")
    folder.results.unlink()  # so that there is something to do
    before = folder.metrics.read_bytes()
    with alone(folder.path):
        ((code, said), _) = start_at_once(tmp_path, ["--resume", "run"], ["--resume", "run"])
        assert code == 2
        assert "Another process is at work in" in said
    assert folder.metrics.read_bytes() == before
    assert main(["train", "--resume", "run"]) == 0
    check_whole(folder, 3)


def test_the_lock_of_a_killed_process_is_gone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config({})
    hold = (
        "import sys; from pathlib import Path\n"
        "from waltz_env.files import alone\n"
        "with alone(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(UsageError, match="Another process"), alone(folder.path):
        pass
    process.kill()
    process.communicate()
    with alone(folder.path):
        pass


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", *NEW, "--out", str(folder)]) == 0
    return folder


def work_on(run: Path, out: str) -> dict[str, list[str]]:
    """The commands that fill a folder, bit by bit."""
    (games,) = RunFolder(run).held_out_games.glob("*-trained_pair.jsonl")
    return {
        "evaluate": ["evaluate", str(run), "--out", out],
        "rejudge": ["rejudge", str(games), "--judge", "rules", "--out", out],
        "benchmark": ["benchmark", *NEW, "--algorithms", "reinforce++", "--seeds", "1", "--out", out],
    }


@pytest.mark.parametrize("command", ["evaluate", "rejudge", "benchmark"])
def test_a_folder_that_another_process_fills_is_left_to_it(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with alone(tmp_path):
        assert main(work_on(run, str(tmp_path))[command]) == 2
    assert f"Another process is at work in {tmp_path}" in capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("command", ["evaluate", "rejudge", "benchmark"])
def test_the_folder_of_a_run_takes_nothing_else(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "other")
    folder.write_config(RunFolder(run).read_config())
    assert main(work_on(run, str(folder.path))[command]) == 2
    assert "Choose another --out" in capsys.readouterr().err
    assert [path.name for path in folder.path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("command", ["evaluate", "rejudge", "benchmark"])
def test_an_empty_name_is_not_the_current_folder(
    command: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        main(work_on(run, "")[command])
    assert error.value.code == 2
    assert "must not be empty" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_a_file_without_games_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.jsonl").touch()
    assert main(["rejudge", str(tmp_path / "none.jsonl"), "--judge", "rules", "--out", str(tmp_path / "out")]) == 2
    assert "There are no games to judge in none of games." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
