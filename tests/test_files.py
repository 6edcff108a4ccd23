from __future__ import annotations

import os
from pathlib import Path

import pytest

from waltz_env.files import atomic_folder, atomic_path


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder_appears_once_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "base"
    with atomic_folder(target) as temporary:
        (temporary / "weights").write_text("1")
        assert not target.exists()
    assert names(tmp_path) == ["runs", "runs/base", "runs/base/weights"]


def test_an_unfinished_folder_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_folder(tmp_path / "base") as temporary:
            (temporary / "weights").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []


def test_the_folder_of_the_faster_process_stays(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "base") as slower:
        (slower / "weights").write_text("2")
        with atomic_folder(tmp_path / "base") as faster:
            (faster / "weights").write_text("1")
    assert names(tmp_path) == ["base", "base/weights"]
    assert (tmp_path / "base" / "weights").read_text() == "1"


def test_a_folder_that_cannot_take_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("a file")
    with pytest.raises(OSError, match="base"), atomic_folder(tmp_path / "base"):
        pass
    assert names(tmp_path) == ["base"]


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_files_that_only_their_owner_can_read_get_the_permissions_of_new_files(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with atomic_folder(tmp_path / "model") as folder:
            (folder / "sub").mkdir()
            for name in ("weights", "sub/more"):
                (folder / name).touch(mode=0o600)
        with atomic_path(tmp_path / "file") as file:
            file.touch(mode=0o600)
    finally:
        os.umask(before)
    files = [tmp_path / name for name in ("model/weights", "model/sub/more", "file")]
    assert [path.stat().st_mode & 0o777 for path in files] == [0o666 & ~umask] * 3
