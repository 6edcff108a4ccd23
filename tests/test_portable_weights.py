"""What a run leaves is used with plain PEFT and transformers, by another process in another folder."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.finished_runs import finish, loaded_by_others, ours, presets_for_tests
from tests.tiny import tiny_tokenizer
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK


@pytest.fixture(params=["adapter", "whole"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A trained run of each kind, begun with a relative path in the folder ``work`` and a group-friendly umask."""
    (tmp_path / "work").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    before = os.umask(0o027)
    try:
        with presets_for_tests():
            finish(request.param, Path("runs/mine"))
            os.umask(before)
            yield request.param, tmp_path
    finally:
        os.umask(before)


def test_weights_load_in_another_folder_after_they_were_moved(run: tuple[str, Path]) -> None:
    kind, place = run
    expected = {agent: ours(Path("runs/mine"), agent) for agent in AGENTS}
    shutil.move(place / "work" / "runs" / "mine" / "weights", place / "elsewhere" / "weights")
    chat = [{"role": "user", "content": "Hi"}]
    folders = {agent: place / "elsewhere" / "weights" / agent for agent in AGENTS}
    loaded = loaded_by_others(dict.fromkeys(folders.values(), kind), place / "elsewhere")
    for agent in AGENTS:
        text, logits = loaded[folders[agent]]
        torch.testing.assert_close(logits, expected[agent])
        assert text == tiny_tokenizer().apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert not torch.equal(expected[CONVERSATION], expected[FEEDBACK])


def test_everything_in_a_run_folder_can_be_read_by_the_group(run: tuple[str, Path]) -> None:
    files = [path for path in Path("runs/mine").rglob("*") if path.is_file()]
    assert len(files) > 10
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in files} == {oct(0o640)}
    folders = [path for path in Path("runs/mine").rglob("*") if path.is_dir()]
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in folders} == {oct(0o750)}


def test_a_moved_run_is_read_by_waltz_env_itself(run: tuple[str, Path]) -> None:
    _, place = run
    expected = ours(Path("runs/mine"), CONVERSATION)
    shutil.move(place / "work" / "runs" / "mine", place / "elsewhere" / "mine")
    assert torch.equal(ours(place / "elsewhere" / "mine", CONVERSATION), expected)
