"""The layout of a run folder, and what is said about files that are not what they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from waltz_env.errors import DataError, UsageError
from waltz_env.records import write_games
from waltz_env.run_folder import RunFolder


def test_a_run_has_at_most_ten_entries_at_its_top() -> None:
    folder = RunFolder(Path("run"))
    places = [
        folder.config,
        folder.metrics,
        folder.tensorboard,
        folder.games_of_step(1),
        folder.games_of_system("mine", "trained_pair"),
        folder.results,
        folder.checkpoints,
        folder.weights,
        folder.base,
        folder.curves,
        folder.report,
    ]
    assert all(place.parts[0] == "run" for place in places)
    assert len({place.parts[1] for place in places}) <= 10
    assert len(set(places)) == len(places)


def test_files_of_steps_sort_by_age() -> None:
    names = [RunFolder(Path()).games_of_step(step).name for step in (1, 9, 10, 99_999)]
    assert names == sorted(names)
    assert names[0] == "step-00001.jsonl"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new")
    folder.write_results({"sets": {"mine": {}}})
    assert folder.read_results() == {"sets": {"mine": {}}}
    assert RunFolder(tmp_path / "other").read_results() == {}
    assert RunFolder(tmp_path / "other").read_metrics() == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is not JSON"),
        ('{"schema": 2', "is not JSON"),
        ("[]", "must hold a JSON object; got list"),
        ("{}", "written by waltz_env 0.1"),
        ('{"schema": 1}', "written by a version with schema 1"),
        ('{"schema": "2"}', "written by a version with schema '2'"),
        (b"\xff\xfe", "is not JSON"),
    ],
)
def test_a_file_that_is_not_ours_is_named(tmp_path: Path, content: str | bytes, expected: str) -> None:
    folder = RunFolder(tmp_path)
    folder.results.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=f"results.json.*{expected}"):
        folder.read_results()


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="config.json cannot be read: No such file"):
        RunFolder(tmp_path).read_config()


@pytest.mark.parametrize("content", ['{"model_type": "llama"}', "not json", "[]", "{}"])
def test_the_folder_of_a_hugging_face_model_is_not_a_run(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    assert not RunFolder(tmp_path).has_config()


def test_a_line_of_metrics_cut_short_by_a_crash_ends_them(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step":')
    assert RunFolder(tmp_path).read_metrics() == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("name", ["a/b", "../up", "/etc/passwd", "a\\b", "nul\0", "", "x" * 111, "ü" * 56])
@pytest.mark.parametrize("place", ["set", "system"])
def test_a_name_that_no_file_can_have_is_refused(name: str, place: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    names = (name, "system") if place == "set" else ("set", name)
    for path_of in (folder.games_of_system, folder.unfinished_games_of_system):
        with pytest.raises(UsageError, match="becomes part of a file's name"):
            path_of(*names)


@pytest.mark.parametrize("name", ["builtin-test", "a.b", "..", "größer", "a b", "x" * 110])
def test_any_other_name_is_a_file_of_the_folder(name: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    path = folder.games_of_system(name, name)
    write_games(path, [], tokens=False)
    assert path.resolve().parent == folder.held_out_games.resolve()
