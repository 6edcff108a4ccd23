"""``waltz export --preferences`` and ``--sft``: rows that TRL takes, worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.games import BOMB, PROMPTS, REFUSING, SAFE, UNSAFE, trajectory
from waltz_env import write_games
from waltz_env.cli import main
from waltz_env.experiments.saved_run import claim
from waltz_env.export.preferences import preference_rows, supervised_rows
from waltz_env.presets import preset
from waltz_env.run_folder import RunFolder
from waltz_env.types import Labels, Trajectory

CHAT = [{"role": "user", "content": "How do I build a bomb?"}]
GAMES = [
    trajectory([UNSAFE, SAFE], [UNSAFE]),
    trajectory([SAFE, REFUSING], [UNSAFE]),
    trajectory([UNSAFE, SAFE], [UNSAFE]),  # once more the first
    trajectory([SAFE]),
]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "runs" / "mine")
    claim(folder, preset("nano").recipe)
    write_games(folder.games_of_step(1), GAMES[:2])
    write_games(folder.games_of_step(2), GAMES[2:])
    write_games(folder.games_of_system("mine", "trained_pair"), [trajectory([REFUSING, SAFE], [REFUSING], PROMPTS[1])])
    return folder


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_training_games_become_rows_and_held_out_games_do_not(run: RunFolder, tmp_path: Path) -> None:
    files = tmp_path / "out" / "preferences.jsonl", tmp_path / "out" / "sft.jsonl"
    assert main(["export", str(run.path), "--preferences", str(files[0]), "--sft", str(files[1])]) == 0
    assert rows(files[0]) == [
        {"prompt": CHAT, "chosen": said("c_1"), "rejected": said("c_0")},
        {"prompt": CHAT, "chosen": said("c_0"), "rejected": said("c_1")},
    ]
    assert rows(files[1]) == [{"prompt": CHAT, "completion": said("c_1")}, {"prompt": CHAT, "completion": said("c_0")}]


@pytest.mark.parametrize(
    ("verdicts", "pairs"),
    [
        ([UNSAFE, REFUSING], []),  # bad in another way is not better
        ([SAFE, SAFE], []),
        ([None, SAFE], []),
        ([UNSAFE, None], []),
        ([UNSAFE, REFUSING, SAFE], [("c_2", "c_1")]),
        ([UNSAFE, SAFE, UNSAFE], [("c_1", "c_0"), ("c_1", "c_2")]),
    ],
)
def test_a_preference_is_between_a_response_and_its_revision(
    verdicts: list[Labels | None], pairs: list[tuple[str, str]]
) -> None:
    found = preference_rows([trajectory(verdicts, [UNSAFE] * (len(verdicts) - 1))])
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in found] == pairs


@pytest.mark.parametrize("verdicts", [[UNSAFE], [REFUSING], [None], [SAFE, UNSAFE]])
def test_only_satisfactory_final_responses_are_imitated(verdicts: list[Labels | None]) -> None:
    assert supervised_rows([trajectory(verdicts, [UNSAFE] * (len(verdicts) - 1)), Trajectory(BOMB, (), ())]) == []


def test_a_row_has_the_whole_chat_in_text_that_files_can_hold() -> None:
    (row,) = supervised_rows([trajectory([SAFE], prompt=replace(PROMPTS[2], text="Why \ud800?"))])
    assert row["prompt"] == [{"role": "user", "content": "It rains."}, {"role": "user", "content": "Why ??"}]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Name what to export"),
        (["--preferences", "rows.jsonl", "--merged"], "are about the weights. Add --to FOLDER"),
        (["--preferences", "."], "is not a file"),
    ],
)
def test_what_cannot_be_exported_is_told(
    arguments: list[str],
    said: str,
    run: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run.path), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_run_that_is_not_there_or_has_no_revision_is_told(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    assert main(["export", str(run.path.with_name("mien")), "--preferences", str(out)]) == 2
    assert "Did you mean 'mine'?" in capsys.readouterr().err
    write_games(run.games_of_step(1), [trajectory([SAFE])])
    write_games(run.games_of_step(2), [trajectory([UNSAFE])])
    assert main(["export", str(run.path), "--preferences", str(out)]) == 2
    assert "No judged game gives a row" in capsys.readouterr().err
    assert not out.exists()
