"""Sharded policies in all combinations, by two and three processes, and whole runs as ``torchrun`` starts them.

Not part of the default suite: ``make test-sharding``. All traffic stays on loopback.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from tests.processes import run_together, torchrun
from tests.sharded import EXACT, LAYOUTS, MORTAL, ROUNDED, SHARES, check_compared, compared
from tests.tiny import save_tiny_model
from waltz_env.experiments.saved_run import claim
from waltz_env.run_folder import RunFolder
from waltz_env.types import AGENTS


def all_cases(accelerator: Accelerator, folder: Path) -> dict[Any, Any]:
    return compared(product([*EXACT, *ROUNDED], SHARES, LAYOUTS), accelerator)


@pytest.mark.parametrize("processes", [2, 3])
def test_updates_of_sharded_policies_are_those_of_replicas(processes: int, tmp_path: Path) -> None:
    for results in run_together(all_cases, tmp_path, processes=processes):
        check_compared(results, processes=processes)


def test_a_run_that_lost_a_process_is_resumed_on_three(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    claim(run, MORTAL)
    words = ("train", "--resume", str(run.path))
    died = torchrun(2, *words, DIES_AFTER=str(run.checkpoints / "step-00001"), DIES_WITH="1")
    assert died.returncode != 0
    assert "ProcessError: Another process of this run has ended" in died.stderr
    assert [line["step"] for line in run.read_metrics()] == [1]

    resumed = torchrun(3, *words)
    assert resumed.returncode == 0, resumed.stderr
    assert [line["step"] for line in run.read_metrics()] == [1, 2, 3, 4]
    assert "trained_pair" in resumed.stdout


def test_all_weights_of_a_model_of_ones_own(tmp_path: Path) -> None:
    model = save_tiny_model("qwen", tmp_path / "model")
    words = ["train", "--model", str(model), "--all-weights", "--shard", "--gradient-checkpointing"]
    words += ["--judge", "refusals", "--prompts", "builtin:train:20", "--test", "builtin:test:3", "--loop.games", "3"]
    words += ["--stage-1.steps", "1", "--stage-2.steps", "1", "--max-new-tokens", "8", "--learner.min-reward-std", "0"]
    told = torchrun(2, *words, "--dry-run")
    assert told.returncode == 0, told.stderr
    assert "weights of a pass" in told.stdout

    run = RunFolder(tmp_path / "run")
    trained = torchrun(2, *words, "--out", str(run.path), ACCELERATE_MIXED_PRECISION="bf16")
    assert trained.returncode == 0, trained.stderr
    assert [line["stage"] for line in run.read_metrics()] == ["stage-1", "stage-2"]
    assert all(line["feedback_0/kl"] == pytest.approx(0, abs=0.1) for line in run.read_metrics())
    assert all((run.weights / agent / "model.safetensors").exists() for agent in AGENTS)
