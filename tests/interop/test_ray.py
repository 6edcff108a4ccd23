"""``waltz benchmark --ray`` and the paper's table on a local cluster of two machines; ``make test-interop`` runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from tests.waiting import wait_until
from waltz_env.cli import main
from waltz_env.errors import UsageError
from waltz_env.experiments.benchmark_table import read_rows
from waltz_env.experiments.executors import RETRIES, _attempt
from waltz_env.experiments.jobs import Job
from waltz_env.experiments.over_seeds import run_folder
from waltz_env.presets import preset

ROOT = Path(__file__).parents[2]
PRESET = "tests.tiny_preset:PRESET"
BROKEN, MORTAL, OUTSIDE = (f"tests.tiny_preset:{name}" for name in ("Broken", "Mortal", "Outside"))
HANDLED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # which a shell may ignore
WALTZ = [sys.executable, "-c", f"{HANDLED}; import sys; from waltz_env.cli import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of two machines with one CPU each, where the settings ``Mortal`` kill a worker."""
    os.environ["MORTAL"] = str(tmp_path_factory.mktemp("mortal") / "grave")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


def benchmark(out: Path, *words: object) -> list[str]:
    return ["benchmark", "--preset", PRESET, "--seeds", "1", "--out", str(out), *map(str, words)]


def facts(out: Path) -> list[dict[str, Any]]:
    """The rows without what a clock says."""
    rows = read_rows(out / "benchmark.json")
    return [{key: row[key] for key in row.keys() - {"algorithm", "seconds", "tokens"}} for row in rows]


def learned(out: Path, name: str) -> dict[str, bytes]:
    """What a run has played and its weights, file by file."""
    folder = run_folder(out, 0, name.replace(":", "."))
    files = [*folder.path.rglob("games/**/*.jsonl"), *folder.weights.rglob("*.safetensors")]
    return {path.relative_to(folder.path).as_posix(): path.read_bytes() for path in files}


def test_a_run_whose_worker_is_killed_goes_on_in_another_and_equals_one_without_ray(
    tmp_path: Path, address: str
) -> None:
    assert main(benchmark(tmp_path / "here", "--algorithms", "grpo", OUTSIDE)) == 0
    assert main(benchmark(tmp_path / "there", "--algorithms", "grpo", MORTAL, "--ray", address)) == 0
    assert facts(tmp_path / "there") == facts(tmp_path / "here")
    for name, other in (("grpo", "grpo"), (MORTAL, OUTSIDE)):
        expected = learned(tmp_path / "here", other)
        assert len(expected) >= 4
        assert learned(tmp_path / "there", name) == expected
    log = (tmp_path / "there" / "seed-0" / "tests.tiny_preset.Mortal.log").read_text()
    first, second = (line.rpartition(" ")[2] for line in log.splitlines() if ", process " in line)
    assert first != second
    assert Path(os.environ["MORTAL"]).exists()


def test_a_run_that_fails_is_tried_again_and_reported(
    tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(benchmark(tmp_path, "--algorithms", "grpo", BROKEN, "--ray", address)) == 1
    assert f"seed 0 failed: see {tmp_path}" in "".join(capsys.readouterr().out.replace("\n", ""))
    log = (tmp_path / "seed-0" / "tests.tiny_preset.Broken.log").read_text()
    assert log.count(", process ") == 1 + RETRIES
    assert "planted" in log
    assert len(facts(tmp_path)) == 1


def test_ctrl_c_ends_the_steps_in_progress_and_the_same_command_continues(tmp_path: Path, address: str) -> None:
    words = benchmark(tmp_path, "--algorithms", "grpo", "--steps", 30, 30, "--ray", address)
    job = Job("grpo", preset(PRESET).recipe, tmp_path)
    with subprocess.Popen([*WALTZ, *words], cwd=ROOT) as process:
        wait_until(lambda: job.steps_done() > 0, seconds=120)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert 0 < job.steps_done() < 60
    assert "Stopping after this step" in job.log.read_text()
    assert list(job.folder.checkpoints.iterdir()) != []
    assert main(words) == 0
    assert job.log.read_text().count(", process ") == 2
    assert len(facts(tmp_path)[0]["curve"]) == 60


def test_the_table_of_the_paper_is_the_same(tmp_path: Path, address: str) -> None:
    table = [sys.executable, "-m", "benchmarks.paper_table", "--preset", PRESET, "--seeds", "0"]
    table += ["--only", "without_stage_2", "trained_pair", "dir_off", "--out"]
    for name, words in (("here", []), ("there", ["--ray", address])):
        subprocess.run([*table, str(tmp_path / name), *words], cwd=ROOT, check=True)
    tables = [(tmp_path / name / "table.json").read_bytes() for name in ("here", "there")]
    assert b"trained_pair" in tables[0]
    assert tables[0] == tables[1]
    assert learned(tmp_path / "there", "dir_off") == learned(tmp_path / "here", "dir_off")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["127.0.0.1:9"], "No Ray cluster could be reached at 127.0.0.1:9"),
        (["nonsense"], "No Ray cluster could be reached at nonsense"),
        (["here", "--gpus", "1"], "no machine of the Ray cluster has them"),
        (["here", "--gpus", "1.5"], "a share of one GPU or a whole number"),
    ],
)
def test_what_cannot_work_is_told_before_anything_runs(
    words: list[str], message: str, tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [address if word == "here" else word for word in words]
    assert main(benchmark(tmp_path, "--algorithms", "grpo", "--ray", *words)) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    job = Job("grpo", preset(PRESET).recipe, tmp_path)
    with pytest.raises(UsageError, match="does not see"):
        _attempt(job, 1, tmp_path / "not-there", tmp_path)
