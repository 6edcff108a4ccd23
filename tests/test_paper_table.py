"""Which runs ``benchmarks/paper_table.py`` does, and in which order; tests/interop/test_ray.py does them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.paper_table import jobs_of
from tests.tiny_preset import RECIPE
from waltz_env.errors import UsageError
from waltz_env.experiments.jobs import Job, run_jobs
from waltz_env.experiments.over_seeds import UNTRAINED, run_folder
from waltz_env.experiments.saved_run import claim
from waltz_env.presets import preset


class Notes:
    """An executor that runs nothing and notes what it was asked for, batch by batch; jobs of ``fails`` fail."""

    def __init__(self, *fails: str) -> None:
        self.fails = fails
        self.batches: list[set[tuple[str, int]]] = []

    def __call__(self, jobs: Sequence[Job], tick: Callable[[], object]) -> Iterator[tuple[Job, bool]]:
        self.batches.append({(job.name, job.recipe.seed) for job in jobs})
        yield from ((job, job.name not in self.fails) for job in jobs)


NAMES = ["single_model_thinking", "trained_pair", "without_stage_2"]


def test_stage_1_is_done_once_before_the_runs_that_begin_with_its_weights(tmp_path: Path) -> None:
    recipe = preset("nano").recipe
    shared, runs = jobs_of(recipe, NAMES, seeds=[3, 4], out=tmp_path)
    notes = Notes()
    assert run_jobs([*runs, *shared], execute=notes) == []
    assert notes.batches == [
        {(UNTRAINED, 3), (UNTRAINED, 4)},
        {(name, seed) for name in ("without_stage_2", "single_model_thinking") for seed in (3, 4)},
        {("trained_pair", 3), ("trained_pair", 4)},
    ]
    one, two = (stage.steps for stage in recipe.stages)
    assert {(job.name, job.steps, job.begin_with, job.base) for job in runs} == {
        ("without_stage_2", one, None, None),
        ("trained_pair", two, "without_stage_2", None),
        ("single_model_thinking", two, None, "thinking"),
    }


def test_what_needs_a_failed_job_is_not_begun_and_the_rest_is(tmp_path: Path) -> None:
    shared, runs = jobs_of(preset("nano").recipe, NAMES, seeds=[0], out=tmp_path)
    notes = Notes("without_stage_2")
    assert [job.name for job in run_jobs([*shared, *runs], execute=notes)] == ["without_stage_2"]
    assert notes.batches == [{(UNTRAINED, 0)}, {("without_stage_2", 0), ("single_model_thinking", 0)}]
    notes = Notes(UNTRAINED)
    assert [job.name for job in run_jobs([*shared, *runs], execute=notes)] == [UNTRAINED]
    assert notes.batches == [{(UNTRAINED, 0)}]


def test_the_table_alone_runs_nothing(tmp_path: Path) -> None:
    assert jobs_of(RECIPE, ["table"], seeds=[0], out=tmp_path) == ([], [])


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
    sets: dict[str, object] = {"mine": {"systems": {name: {} for name in systems}, "comparisons": {}}}
    job.folder.results.write_text(json.dumps({"schema": 2, "sets": sets}))
    assert job.finished() == done
