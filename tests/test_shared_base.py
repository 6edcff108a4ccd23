"""Runs over seeds share a base model in the folder of their seed: whoever reads such a run finds it there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.finished_runs import ours, presets_for_tests
from waltz_env.cli import main
from waltz_env.experiments.over_seeds import run, run_folder, seed_folder
from waltz_env.experiments.saved_run import base_folder, read_recipe
from waltz_env.presets import PRESETS
from waltz_env.run_folder import RunFolder
from waltz_env.types import CONVERSATION


def test_a_run_over_seeds_is_evaluated_and_distilled_on_the_base_of_its_seed(tmp_path: Path) -> None:
    with presets_for_tests():
        recipes = [replace(PRESETS["adapter"].recipe, preset="adapter", seed=seed) for seed in (0, 1)]
        for recipe in recipes:
            assert run("pair", recipe, tmp_path) is not None
        runs = [run_folder(tmp_path, seed, "pair") for seed in (0, 1)]
        assert [base_folder(folder, read_recipe(folder)).path for folder in runs] == [
            seed_folder(tmp_path, seed).path for seed in (0, 1)
        ]
        words = ["--no-untrained", "--out"]
        assert main(["evaluate", str(runs[0].path), *words, str(tmp_path / "out")]) == 0
        assert main(["evaluate", "--cross", *(str(each.path) for each in runs), *words, str(tmp_path / "crossed")]) == 0
        assert not any(each.base.exists() for each in runs)
        whole = ours(runs[0].path, CONVERSATION)
        runs[0].path.rename(tmp_path / "moved")
        seed_folder(tmp_path, 0).base.rename(tmp_path / "moved" / "base")
        assert torch.equal(ours(tmp_path / "moved", CONVERSATION), whole)


@pytest.mark.parametrize(
    ("above", "own", "shared"), [("seed-0", False, True), ("seed-0", True, False), ("runs", False, False)]
)
def test_a_folder_called_base_beside_other_runs_is_no_base(above: str, own: bool, shared: bool, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / above / "pair")
    (tmp_path / above / "base").mkdir(parents=True)
    if own:
        folder.base.mkdir(parents=True)
    expected = tmp_path / above if shared else folder.path
    assert base_folder(folder, PRESETS["nano"].recipe).path == expected
