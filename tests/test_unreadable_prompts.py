"""Prompts that are too long for a model: an error in training and evaluation, or left out and counted if asked to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny import CONTEXT
from tests.tiny_preset import PRESET, RECIPE, tiny_pair
from waltz_env.algorithms import LoopConfig, train
from waltz_env.cli import main
from waltz_env.errors import UnreadablePromptError, UsageError
from waltz_env.evaluation import paired
from waltz_env.judges import RefusalJudge
from waltz_env.presets import PRESETS
from waltz_env.prompts import PromptSet
from waltz_env.records import read_games
from waltz_env.run_folder import RunFolder
from waltz_env.types import Kind, Prompt, Trajectory

SHORT = [Prompt(f"short {kind}", kind, id=f"short-{kind}") for kind in Kind]
LONG = Prompt("x" * (CONTEXT + 1), Kind.BENIGN, id="too-long")
CONFIG = LoopConfig(games=6, branches=(2, 1, 1), exclude_unreadable=True)


def run(folder: Path, prompts: list[Prompt], config: LoopConfig) -> list[dict[str, float]]:
    """Trains the tiny pair for a step per stage; what was logged."""
    agents = tiny_pair(0)
    train(
        agents,
        RECIPE.stages,
        judge=RefusalJudge(),
        prompts=PromptSet(prompts),
        folder=folder,
        config=config,
        validation=PromptSet(prompts),
    )
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_does_not_begin_and_names_the_prompt(tmp_path: Path) -> None:
    with pytest.raises(UnreadablePromptError, match=r"conversation_0: 1 of 3 prompts are too long.*Prompts: too-long"):
        run(tmp_path, [*SHORT, LONG], replace(CONFIG, exclude_unreadable=False))
    assert list(tmp_path.iterdir()) == []


def test_training_leaves_them_out_and_counts_them_if_asked_to(tmp_path: Path) -> None:
    logged = run(tmp_path, [*SHORT, LONG], replace(CONFIG, evaluate_every=1))
    assert [step["games/excluded"] for step in logged] == [2.0, 2.0]
    games = read_games(RunFolder(tmp_path).games_of_step(1))
    assert sorted(game.prompt.id for game in games) == ["short-benign"] * 2 + ["short-harmful"] * 2


def test_a_step_without_a_prompt_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can read any of the 6 prompts of step 1"):
        run(tmp_path, [LONG], CONFIG)


def evaluate(folder: Path, *arguments: str) -> int:
    lines = [{"text": prompt.text, "kind": prompt.kind.value, "id": prompt.id} for prompt in [*SHORT, LONG]]
    (folder / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out, prompts = str(folder / "out"), str(folder / "mine.jsonl")
    return main(["evaluate", str(folder / "run"), "--prompts", prompts, "--out", out, "--samples", "2", *arguments])


def test_an_evaluation_stops_or_leaves_them_out_counts_them_and_compares_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PRESETS, "tests.tiny_preset:PRESET", PRESET)
    assert main(["train", "--preset", "tests.tiny_preset:PRESET", "--out", str(tmp_path / "run")]) == 0
    assert evaluate(tmp_path) == 2
    assert "too-long" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []  # made before any work, and nothing is in it
    assert evaluate(tmp_path, "--exclude-unreadable", "--latency", "9") == 0
    assert "trained_pair: 2 games left out" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (content,) = results["sets"].values()
    assert content["excluded"] == dict.fromkeys(content["systems"], 2)
    assert {metrics["asr"]["n"] for metrics in content["systems"].values()} == {2}
    assert {difference["asr"]["n"] for difference in content["comparisons"].values()} == {1}
    assert results["latency"]["adaptive"]["n"] == 4


def test_games_that_both_systems_have_are_paired_prompt_by_prompt() -> None:
    first, second = (Trajectory(prompt, (), ()) for prompt in SHORT)
    again = Trajectory(replace(SHORT[0], history=({"role": "user", "content": "Hi"},)), (), ())
    assert paired([first, second, first], [first, first, second]) == ([first, second, first],) * 2
    assert paired([first, first], [second, first]) == ([first],) * 2
    assert paired([first], [again]) == ([], [])
