"""One pipeline from recipe to results: claimed folders, exact continuation, nothing done twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from tests.tiny_preset import RECIPE, LongDraftsOnly
from waltz_env import CONVERSATION, FEEDBACK, UsageError
from waltz_env.algorithms.training.learners import policies_of
from waltz_env.errors import CheckpointError, DataError
from waltz_env.experiments import EvaluationConfig, evaluate, execute, load_run, read_recipe
from waltz_env.experiments.over_seeds import collect, play_untrained, run, run_folder, seed_folder
from waltz_env.experiments.saved_run import claim, load_weights
from waltz_env.experiments.watch import Done
from waltz_env.presets import with_method, with_stages, with_steps, workbench
from waltz_env.records import read_games
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder


def weights(folder: RunFolder) -> torch.Tensor:
    _, bench = load_run(folder, Accelerator())
    tensors = [t for policy in policies_of(bench.agents).values() for t in policy.state_dict().values()]
    return torch.cat([tensor.flatten() for tensor in tensors])


def test_a_run_in_python_leaves_what_the_command_leaves(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "deep" / "run")
    seen: list[Done] = []
    results = execute(RECIPE, folder, evaluating=seen.append)
    assert results is not None
    assert results["sets"].keys() == {"mine"}
    begun = [done.now for done in seen if (done.turns, done.verdicts, done.parts) == (0, 0, 0)]
    assert begun == ["mine, before training", "mine, after training"]
    assert [done for done in seen if done.parts == done.of] == [  # two drafts, two critiques; no revisions to judge
        Done(now, parts=1, of=1, turns=4, verdicts=2) for now in begun
    ]
    assert results["sets"]["mine"]["systems"]["trained_pair"]["asr"]["n"] == 1
    assert read_recipe(folder) == RECIPE
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "checkpoints",
        "config.json",
        "curves.png",
        "games",
        "metrics.jsonl",
        "results.json",
        "tensorboard",
        "weights",
    ]
    for agent in (CONVERSATION, FEEDBACK):
        assert (folder.weights / agent / "adapter_config.json").exists()


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    claim(folder, RECIPE)
    before = folder.config.read_bytes()
    for recipe in (RECIPE, replace(RECIPE, seed=1)):
        with pytest.raises(UsageError, match=f"holds a run already. Continue it with --resume {folder.path}"):
            execute(recipe, folder)
    with pytest.raises(UsageError, match="is a run with other settings"):
        execute(replace(RECIPE, seed=1), folder, resume=True)
    assert folder.config.read_bytes() == before
    assert [path.name for path in folder.path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("theirs", [[], ["notes.txt"], ["deep/notes.txt"]])
def test_a_build_that_fails_leaves_what_was_there_before(tmp_path: Path, theirs: list[str]) -> None:
    folder = tmp_path / "run"
    for name in theirs:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("theirs")
    for _ in range(1 if theirs else 2):  # the name is free again
        with pytest.raises(UsageError, match="There is no such model"):
            execute(replace(RECIPE, preset="tests.tiny_preset:UNBUILDABLE"), folder)
    assert folder.exists() == bool(theirs)
    assert [(folder / name).read_text() for name in theirs] == ["theirs"] * len(theirs)


def test_a_file_in_the_way_is_told_before_anything_is_built(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file; the folder of a run is expected"):
        execute(RECIPE, tmp_path / "file")
    with pytest.raises(UsageError, match="cannot be written"):
        execute(RECIPE, tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_stopped_run_continues_exactly_and_a_finished_one_is_not_run_again(tmp_path: Path, stop_after: int) -> None:
    recipe = with_steps(RECIPE, 2, 2)
    whole = execute(recipe, tmp_path / "whole")
    steps = iter(range(1, 100))
    folder = RunFolder(tmp_path / "parts")
    assert execute(recipe, folder, should_stop=lambda: next(steps) == stop_after) is None
    continued = execute(recipe, folder, resume=True)
    assert whole is not None
    assert continued is not None
    assert continued["sets"] == whole["sets"]
    assert torch.equal(weights(folder), weights(RunFolder(tmp_path / "whole")))
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.is_file()}
    assert execute(recipe, folder, resume=True) == continued
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.is_file()} == before


def test_settings_that_cannot_work_are_told_before_the_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trains feedback_0 alone"):
        execute(replace(RECIPE, shared_policy=True), tmp_path / "run")
    with pytest.raises(UsageError, match="Did you mean 'rules'"):
        execute(replace(RECIPE, judge="rulez"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_an_earlier_version_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"preset": "nano", "stage_1_steps": 40}))
    (tmp_path / "results.json").write_text(json.dumps({"sets": {}}))
    with pytest.raises(DataError, match="config.json was written by waltz_env 0.1, whose layout this version"):
        read_recipe(RunFolder(tmp_path))
    with pytest.raises(DataError, match="results.json was written by waltz_env 0.1"):
        RunFolder(tmp_path).read_results()


def test_a_second_stage_begins_with_the_weights_of_another_run(tmp_path: Path) -> None:
    """Stage 1 once, then two second stages of no learning from it: both end with the weights that stage 1 left."""
    first = with_steps(RECIPE, 2, 0)
    assert run("first", first, tmp_path) is not None
    frozen = with_method(with_steps(RECIPE, 2, 1), "feedback-only")
    with pytest.raises(UsageError, match="finish that run first"):
        run("second", frozen, tmp_path, begin_with="missing")
    assert run("second", frozen, tmp_path, begin_with="first") is not None
    bench = workbench(RECIPE, seed_folder(tmp_path, 0), accelerator=Accelerator())
    load_weights(run_folder(tmp_path, 0, "first"), bench)
    before = policies_of(bench.agents)[CONVERSATION].state_dict()
    _, second = load_run(run_folder(tmp_path, 0, "second"), Accelerator())
    after = policies_of(second.agents)
    assert all(torch.equal(before[name], after[CONVERSATION].state_dict()[name]) for name in before)
    assert after[FEEDBACK].version == 3  # two updates in the run it began with, one of its own


def test_rates_are_collected_by_set_system_metric_and_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        play_untrained(replace(RECIPE, seed=seed), tmp_path)
        assert run("pair", replace(RECIPE, seed=seed), tmp_path) is not None
    rates = collect(tmp_path, ["pair", "never run"])["mine"]
    assert {"baseline", "baseline_safeguard", "untrained_pair", "oracle_feedback", "pair"} == rates.keys()
    assert rates["pair"]["asr"].keys() == {0, 1}


def test_an_evaluation_in_python_plays_the_rules_of_the_run(tmp_path: Path) -> None:
    folder, out = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "out")
    never = LongDraftsOnly(words=1_000)
    execute(with_stages(RECIPE, rules=never), folder)
    results = evaluate([folder], out, config=EvaluationConfig(samples=2, latency=1))
    assert results["runs"]["trained_pair"]["folder"] == str(folder.path)
    for system in ("untrained_pair", "trained_pair"):
        games = read_games(out.games_of_system("mine", system))
        assert len(games) == 4
        assert not any(game.critiques for game in games)  # no draft of five tokens is that long
    assert results["latency"]["adaptive"]["n"] == 1


def test_runs_without_a_checkpoint_cannot_be_evaluated(tmp_path: Path) -> None:
    claim(RunFolder(tmp_path / "run"), RECIPE)
    with pytest.raises(CheckpointError, match=f"waltz train --resume {tmp_path / 'run'}"):
        evaluate([RunFolder(tmp_path / "run")], RunFolder(tmp_path / "out"))
    with pytest.raises(UsageError, match="at least one run"):
        evaluate([], RunFolder(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_rules_reach_training_and_evaluation(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    execute(with_stages(RECIPE, rules=Rules(max_rounds=0)), folder)
    assert not any(game.critiques for game in read_games(folder.games_of_step(1)))
    assert list(folder.read_results()["sets"]["mine"]["systems"]) == ["baseline", "trained_pair"]
