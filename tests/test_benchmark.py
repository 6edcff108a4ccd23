"""``waltz benchmark`` from end to end, in processes of its own, on a tiny real model."""

from __future__ import annotations

import json
import math
import sys
from itertools import chain
from pathlib import Path
from statistics import fmean

import pytest

from waltz_env.cli import main
from waltz_env.errors import DataError
from waltz_env.experiments.benchmark import jobs_of
from waltz_env.experiments.benchmark_table import games_to_threshold, read_rows, table, write_benchmark
from waltz_env.experiments.executors import in_processes
from waltz_env.experiments.jobs import run_jobs
from waltz_env.presets import preset
from waltz_env.records import training_games
from waltz_env.run_folder import RunFolder

PRESET = "tests.tiny_preset:PRESET"
OUTSIDE, BROKEN, MORTAL = (f"tests.tiny_preset:{name}" for name in ("Outside", "Broken", "Mortal"))


def benchmark(out: Path, *arguments: object) -> int:
    return main(["benchmark", "--preset", PRESET, "--out", str(out), *map(str, arguments)])


def row(algorithm: str, seed: int, curve: list[float], asr: float) -> dict[str, object]:
    return {
        "algorithm": algorithm,
        "seed": seed,
        "preset": "nano",
        "games_a_step": 10,
        "curve": curve,
        "tokens": 1000.0,
        "seconds": 2.0,
        "sets": {"mine": {"asr": asr, "orr": None, "ftr": 0.0, "label_accuracy": 1.0}},
    }


def test_a_failed_run_is_reported_and_leaves_the_others_alone_and_finished_runs_are_not_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark(tmp_path, "--algorithms", "grpo", BROKEN, OUTSIDE, "--seeds", 2) == 1
    assert "seed-1/tests.tiny_preset.Broken.log" in "".join(capsys.readouterr().out.split())
    assert "planted" in (tmp_path / "seed-1" / "tests.tiny_preset.Broken.log").read_text()
    rows = read_rows(tmp_path / "benchmark.json")
    assert [(each["algorithm"], each["seed"]) for each in rows] == [
        ("grpo", 0),
        ("grpo", 1),
        (OUTSIDE, 0),
        (OUTSIDE, 1),
    ]
    assert {len(each["curve"]) for each in rows} == {2}
    assert all(each["tokens"] > 0 and each["seconds"] > 0 and "asr" in each["sets"]["mine"] for each in rows)
    for name in ("curves.png", "plane.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    before = (tmp_path / "seed-0" / "grpo" / "metrics.jsonl").stat().st_mtime_ns
    assert benchmark(tmp_path, "--algorithms", "grpo", OUTSIDE, "--seeds", 2) == 0
    assert (tmp_path / "seed-0" / "grpo" / "metrics.jsonl").stat().st_mtime_ns == before
    assert read_rows(tmp_path / "benchmark.json") == rows


def test_its_steps_are_those_that_were_asked_for(tmp_path: Path) -> None:
    assert benchmark(tmp_path, "--algorithms", "grpo", "--seeds", 1, "--steps", 2, 1) == 0
    assert [len(each["curve"]) for each in read_rows(tmp_path / "benchmark.json")] == [3]


def test_branches_are_compared_at_equal_tokens(tmp_path: Path) -> None:
    arguments = ["--algorithms", BROKEN, "reinforce++", "--branches", "2,1,1", "1,2,1", "--seeds", 1]
    assert benchmark(tmp_path, *arguments) == 1
    assert not (tmp_path / "seed-0" / "tests.tiny_preset.Broken-1,2,1").exists()  # nobody knows what it may cost
    first, second = read_rows(tmp_path / "benchmark.json")
    assert [(each["algorithm"], each["branches"]) for each in (first, second)] == [
        ("reinforce++ 2,1,1", [2, 1, 1]),
        ("reinforce++ 1,2,1", [1, 2, 1]),
    ]
    games = list(chain(*training_games(RunFolder(tmp_path / "seed-0" / "reinforce++-2,1,1"))))
    draft, critique = (
        fmean(each.completion.tokens.completion_tokens for game in games for each in turns(game))
        for turns in (lambda game: game.responses, lambda game: game.critiques)
    )
    assert {len(game.responses) for game in games} == {1}  # a model without training flags nothing
    assert second["games_a_step"] == 2 * round(2 * (2 * draft + 2 * critique) / (draft + 2 * critique))
    assert second["tokens"] == pytest.approx(first["tokens"], rel=0.3)
    before = (tmp_path / "seed-0" / "reinforce++-1,2,1" / "metrics.jsonl").stat().st_mtime_ns
    assert benchmark(tmp_path, "--algorithms", "reinforce++", *arguments[3:]) == 0
    assert (tmp_path / "seed-0" / "reinforce++-1,2,1" / "metrics.jsonl").stat().st_mtime_ns == before
    assert "tokens (k) to R_c 0.9" in (tmp_path / "benchmark.md").read_text()
    assert benchmark(tmp_path / "other", "--algorithms", "reinforce++", "--branches", "1,2") == 2


def test_unknown_algorithms_and_damaged_rows_are_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark(tmp_path, "--algorithms", "grpoo") == 2
    assert "Did you mean 'grpo'?" in capsys.readouterr().err
    assert benchmark(tmp_path, "--algorithms", "no.such:thing") == 2
    assert benchmark(tmp_path, "--algorithms", "grpo", "--preset", "llama-3.1-8b") == 2
    assert "loop.branches" in "".join(capsys.readouterr().err.split())
    (tmp_path / "rows.json").write_text("{}")
    assert benchmark(tmp_path, "--algorithms", "grpo", "--rows", tmp_path / "rows.json") == 2
    assert not (tmp_path / "seed-0").exists()


@pytest.mark.parametrize("content", ['{"schema": 2, "sets": {}}', '{"schema": 2, "sets": {"mine": 3}}', "{", ""])
def test_a_damaged_run_is_told_before_anything_runs(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "seed-0" / "grpo"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(content)
    assert benchmark(tmp_path, "--algorithms", "grpo", "--seeds", 1) == 2
    assert str(folder / "results.json") in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["seed-0"]


def test_the_bar_counts_the_steps_of_all_runs(tmp_path: Path) -> None:
    recipe = preset(PRESET).recipe
    shared, runs = jobs_of(recipe, ["grpo"], seeds=2, out=tmp_path)
    assert [job.steps for job in (*shared, *runs)] == [0, 0, 2, 2]
    assert [job.steps_done() for job in runs] == [0, 0]
    runs[1].folder.path.mkdir(parents=True)
    runs[1].folder.metrics.write_text("{}\n{}")
    assert [job.steps_done() for job in runs] == [0, 1]
    seen: list[int] = []
    with in_processes(1, threads=1) as execute:
        assert run_jobs([*shared, *runs[:1]], execute=execute, progress=lambda ended: seen.append(len(ended))) == []
    assert seen[-1] == 3
    assert seen == sorted(seen)
    assert runs[0].steps_done() == 2


def test_a_killed_process_fails_its_own_run_and_the_same_command_continues_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORTAL", str(tmp_path / "grave"))
    assert benchmark(tmp_path / "out", "--algorithms", MORTAL, OUTSIDE, "--seeds", 1) == 1
    assert "Mortal, seed 0 failed" in capsys.readouterr().out
    assert [row["algorithm"] for row in read_rows(tmp_path / "out" / "benchmark.json")] == [OUTSIDE]
    assert benchmark(tmp_path / "out", "--algorithms", MORTAL, OUTSIDE, "--seeds", 1) == 0
    mortal, outside = read_rows(tmp_path / "out" / "benchmark.json")
    assert mortal["curve"] == outside["curve"]
    assert mortal["sets"] == outside["sets"]


def test_games_to_the_threshold_are_counted_to_the_end_of_the_first_five_steps_that_reach_it() -> None:
    """The moving mean is .6, .8, 1: .8 is reached by the second window, which ends with step 6 of 10 games each."""
    curve = [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert games_to_threshold(row("a", 0, curve, 0.0), 0.8) == 60
    assert math.isnan(games_to_threshold(row("a", 0, curve, 0.0), 1.1))


def test_the_table_pairs_seeds_and_marks_clear_differences() -> None:
    rows = [row("default", seed, [0.5] * 5, 0.5 + 0.01 * seed) for seed in range(3)]
    rows += [row("other", seed, [0.9] * 5, 0.2 + 0.01 * seed) for seed in range(4)]
    text = table(rows, 0.9)
    assert "Minus `default`" in text
    assert "| default | 3 | 0.5 ± 0 | never | 1 ± 0 | 2 ± 0 |" in text
    assert "| default | 3 | 51 ± " in text
    assert " | - | 0 ± 0 |" in text  # an ORR without benign prompts is no rate
    assert "**-30 ± " in text  # ASR, over the three seeds that both have


def test_rows_that_cannot_be_compared_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for other in (
        row("a", 0, [0.5], 0.1),
        row("b", 0, [0.5], 0.1) | {"preset": "other"},
        row("b", 0, [0.5, 0.5], 0.1),
        row("b 1,2,1", 0, [0.5, 0.5], 0.1) | {"branches": [1, 2, 1], "tokens": 1600.0},
    ):
        (tmp_path / "rows.json").write_text(json.dumps({"schema": 1, "rows": [row("a", 0, [0.5], 0.1), other]}))
        with pytest.raises(
            DataError,
            match="rename one|cannot be compared|has 20 training games, and a, seed 0, has 10|1600 tokens, and a",
        ):
            write_benchmark(tmp_path / "out", [], others=read_rows(tmp_path / "rows.json"), threshold=0.9)


def test_rows_of_another_schema_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps({"schema": 99, "rows": []}))
    with pytest.raises(DataError, match="schema 99"):
        read_rows(tmp_path / "rows.json")
    (tmp_path / "rows.json").write_text(json.dumps({"schema": 1, "rows": [{"algorithm": "a"}]}))
    with pytest.raises(DataError, match="a row lacks curve"):
        read_rows(tmp_path / "rows.json")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", 1], "--gpus is for --ray"),
        (["--ray", "a", "b"], "one address or none"),
        (["--ray"], "This needs ray, which is not installed. Install: pip install"),
    ],
)
def test_ray_where_it_cannot_work_is_told_before_anything_runs(
    words: list[object],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert benchmark(tmp_path, "--algorithms", "grpo", *words) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
