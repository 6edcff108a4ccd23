"""Which runs ``benchmarks/paper_table.py`` does, and in which order; tests/interop/test_ray.py does them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.paper_table import FIRST, jobs_of
from tests.tiny_preset import RECIPE
from waltz_env.errors import UsageError
from waltz_env.experiments.jobs import Job
from waltz_env.experiments.over_seeds import UNTRAINED, run_folder
from waltz_env.experiments.saved_run import claim
from waltz_env.presets import preset


def test_stage_1_goes_before_the_runs_that_begin_with_its_weights(tmp_path: Path) -> None:
    recipe = preset("nano").recipe
    names = ["single_model_thinking", "trained_pair", FIRST]
    shared, first, rest = jobs_of(recipe, names, seeds=[3, 4], out=tmp_path)
    assert [(job.name, job.recipe.seed) for job in shared] == [(UNTRAINED, 3), (UNTRAINED, 4)]
    assert [(job.name, job.recipe.seed) for job in first] == [(FIRST, 3), (FIRST, 4)]
    assert [(job.name, job.recipe.seed, job.begin_with, job.base) for job in rest] == [
        ("trained_pair", 3, FIRST, None),
        ("trained_pair", 4, FIRST, None),
        ("single_model_thinking", 3, None, "thinking"),
        ("single_model_thinking", 4, None, "thinking"),
    ]
    one, two = (stage.steps for stage in recipe.stages)
    assert (first[0].steps, rest[0].steps) == (one, two)


def test_the_table_alone_runs_nothing(tmp_path: Path) -> None:
    assert jobs_of(RECIPE, ["table"], seeds=[0], out=tmp_path) == [[], [], []]


def test_a_folder_with_another_run_is_told_before_anything_runs(tmp_path: Path) -> None:
    claim(run_folder(tmp_path, 0, "trained_pair"), replace(RECIPE, test_samples=7))
    with pytest.raises(UsageError, match="is a run with other settings"):
        jobs_of(RECIPE, ["trained_pair"], seeds=[0], out=tmp_path)


@pytest.mark.parametrize(("systems", "done"), [(["after_stage-1"], False), (["after_stage-1", "trained_pair"], True)])
def test_a_run_is_finished_once_what_it_trained_has_been_evaluated(
    systems: list[str], done: bool, tmp_path: Path
) -> None:
    job = Job("run", RECIPE, tmp_path)
    assert not job.finished()
    job.folder.path.mkdir(parents=True)
    sets = {"mine": {"systems": {name: {} for name in systems}, "comparisons": {}}}
    job.folder.results.write_text(json.dumps({"schema": 2, "sets": sets}))
    assert job.finished() == done
