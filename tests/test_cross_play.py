"""The agents of several runs with each other: who plays, what is generated once, what is kept, and what it says."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_preset import INSISTENT, SWITCH
from waltz_env import Trajectory, read_games
from waltz_env.cli import main
from waltz_env.cli.cross_tables import show_cross_play
from waltz_env.evaluation import Proportion, added
from waltz_env.experiments.cross_matrix import RATES, Player, crossed, matrix, system_of
from waltz_env.presets import Recipe, with_method, with_stages
from waltz_env.report.matrix import heat_map
from waltz_env.results_file import Rate
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder

PRESET = "tests.tiny_preset:INSISTENT"
SWITCHED = "tests.tiny_preset:SWITCH"
RUNS = ("first", "second", "alone")
COLUMNS = ("none", "first", "second", "untrained-0", "untrained-1")
ROWS = ("first", "second", "alone", "untrained-0", "untrained-1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained pairs of different seeds, and a single model of the second seed."""
    folder = tmp_path_factory.mktemp("runs")
    for name, *settings in (
        ("first",),
        ("second", "--seed", "1"),
        ("alone", "--seed", "1", "--method", "single-model"),
    ):
        assert main(["train", "--preset", PRESET, *settings, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture(scope="module")
def crossed_once(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pairs of these runs; one draft serves all feedback agents and is judged once."""
    out = tmp_path_factory.mktemp("crossed") / "out"
    SWITCH.left, SWITCH.responses = 0, 0
    assert cross(runs, out) == 0
    prompts, rows, pairs = 2, len(ROWS), len(ROWS) * (len(COLUMNS) - 1)
    assert SWITCH.responses == 2 + prompts * (rows + pairs)  # two first questions, drafts, revisions
    return out


@pytest.fixture(autouse=True)
def switch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(SWITCH, "left", 0)
    monkeypatch.setattr(SWITCH, "responses", 0)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # see test_evaluations
    yield
    signal.signal(signal.SIGINT, handler)


def cross(runs: Path, out: Path, *more: str) -> int:
    folders = [str(runs / name) for name in RUNS]
    return main(["evaluate", "--cross", *folders, "--judge", SWITCHED, *more, "--out", str(out)])


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def games(folder: Path, conversation: str, feedback: str) -> list[Trajectory]:
    return read_games(RunFolder(folder).games_of_system("mine", system_of(conversation, feedback)))


def test_every_conversation_agent_plays_with_every_feedback_agent_and_alone(crossed_once: Path) -> None:
    content = results(crossed_once)["cross_play"]["mine"]
    assert {row: tuple(cells) for row, cells in content["cells"].items()} == dict.fromkeys(ROWS, COLUMNS)
    kinds = ["trained pair", "trained pair", "single-model RL", "untrained", "untrained"]
    assert list(content["conversation"].values()) == kinds
    assert list(content["feedback"].values()) == ["trained pair", "trained pair", "untrained", "untrained"]
    cell = content["cells"]["first"]["second"]
    assert cell["asr_plus_orr"]["value"] == cell["asr"]["value"] + cell["orr"]["value"]
    assert cell["ftr"] == results(crossed_once)["sets"]["mine"]["systems"]["first+second"]["ftr"]


def test_one_draft_serves_all_feedback_agents(crossed_once: Path) -> None:
    for row in ROWS:
        drafts = [[game.responses[0] for game in games(crossed_once, row, column)] for column in COLUMNS]
        assert drafts == [drafts[0]] * len(COLUMNS)


def test_a_pair_of_one_run_plays_the_games_of_an_evaluation(runs: Path, crossed_once: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        out = tmp_path / name
        assert main(["evaluate", str(runs / name), "--judge", SWITCHED, "--out", str(out)]) == 0
        evaluated = RunFolder(out)
        assert games(crossed_once, name, name) == read_games(evaluated.games_of_system("mine", "trained_pair"))
        start = f"untrained-{('first', 'second').index(name)}"
        assert games(crossed_once, start, start) == read_games(evaluated.games_of_system("mine", "untrained_pair"))


def test_feedback_decides_the_revision_alone(crossed_once: Path) -> None:
    own, other = games(crossed_once, "first", "first"), games(crossed_once, "first", "second")
    assert [game.critiques for game in own] != [game.critiques for game in other]
    assert all(len(game.responses) == 2 for game in own + other)


def test_an_interrupted_cross_play_continues_with_the_pairs_that_are_missing(
    runs: Path, crossed_once: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    SWITCH.left = 9  # the first question, the first row with its drafts, and three calls of the second row
    assert cross(runs, out) == 130
    kept = {path: path.stat().st_mtime_ns for path in RunFolder(out).held_out_games.iterdir()}
    assert len(kept) == 7
    assert cross(runs, out) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for key in ("sets", "cross_play"):
        assert results(out)[key] == results(crossed_once)[key]
    SWITCH.responses = 0
    assert cross(runs, out) == 0
    assert SWITCH.responses == 2


def test_the_command_tells_all_pairs_and_draws_them(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cross(runs, tmp_path, "--no-untrained") == 0
    printed = capsys.readouterr().out
    assert "all pairs of agents, final responses, %" in printed
    assert "mean over conversation agents" in printed
    figure = RunFolder(tmp_path).cross_play("mine")
    assert str(figure) in printed
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert main(["report", str(tmp_path)]) == 0
    page = RunFolder(tmp_path).report.read_text("utf-8")
    assert "ASR + ORR of all pairs of agents on mine" in page
    assert "Safety against helpfulness" not in page  # a hundred pairs cannot be told apart there
    assert "<image" not in page


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--safeguard", "rules"], "--cross takes neither"),
        (["--latency", "3"], "--cross takes neither"),
        (["--engine", "vllm"], "--cross takes neither"),
        (["--conversation-url", "http://127.0.0.1:9/v1"], "leave out --conversation-url"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_settings_that_would_be_ignored_are_told(
    more: list[str], told: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cross(runs, tmp_path / "out", *more) == 2
    assert told in capsys.readouterr().err
    assert SWITCH.responses == 0


def test_a_folder_holds_either_a_cross_play_or_an_evaluation(
    runs: Path, crossed_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ["evaluate", str(runs / "first"), "--no-untrained", "--judge", SWITCHED, "--out"]
    assert main([*plain, str(crossed_once)]) == 2
    assert "holds an evaluation with --cross" in capsys.readouterr().err
    assert main([*plain, str(tmp_path)]) == 0
    assert cross(runs, tmp_path) == 2
    assert "holds results without --cross" in capsys.readouterr().err


FOLDERS = [RunFolder(Path(name)) for name in ("a", "b")]
RECIPE = INSISTENT.recipe
OTHERS: dict[str, tuple[Recipe, str]] = {
    "another preset": (replace(RECIPE, preset="nano"), "the preset nano"),
    "other rules": (with_stages(replace(RECIPE, preset=PRESET), rules=Rules(2)), "max_rounds=2"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_runs_that_are_not_alike_are_told(name: str) -> None:
    other, told = OTHERS[name]
    recipe = replace(RECIPE, preset=PRESET)
    with pytest.raises(ValueError, match=told):
        crossed(FOLDERS, [recipe, other], untrained=True)


def test_a_single_model_has_no_feedback_agent_to_cross() -> None:
    single = with_method(replace(RECIPE, preset=PRESET), "single-model")
    with pytest.raises(ValueError, match="a run that has trained a feedback agent"):
        crossed(FOLDERS, [single, replace(single, seed=1)], untrained=True)


def test_equal_folder_names_are_told_apart_by_the_folder_above_and_equal_starts_are_one() -> None:
    recipe = replace(RECIPE, preset=PRESET)
    folders = [RunFolder(Path(f"seed-{seed}/{name}")) for seed in (0, 1) for name in ("pair", "dir-off")]
    conversation, feedback = crossed(folders, [replace(recipe, seed=seed) for seed in (0, 0, 1, 1)], untrained=True)
    names = [player.name for player in conversation]
    assert names == ["seed-0-pair", "seed-0-dir-off", "seed-1-pair", "seed-1-dir-off", "untrained-0", "untrained-1"]
    assert feedback == conversation
    with pytest.raises(ValueError, match="seed-0-pair"):
        crossed([folders[0], folders[0]], [recipe, recipe], untrained=False)


def rate(value: float, arm: float = 0.0) -> Rate:
    return {"value": value, "low": value - arm, "high": value + arm, "n": 10}


def test_the_means_are_of_partners_that_were_never_met_in_training() -> None:
    """ASR + ORR by hand. First: alone 60, own 20, second's 40. Second: alone 70, own 10, first's 20. Start: alone 100,
    own 90, first's (which trained with it) 50, second's 80."""
    recipe = replace(RECIPE, preset=PRESET)
    one, two = (
        Player(name, "trained pair", RunFolder(Path(name)), replace(recipe, seed=i)) for i, name in enumerate("ab")
    )
    start = Player("untrained-0", "untrained", one.folder, recipe)
    sums = {
        "a": {"none": 0.6, "a": 0.2, "b": 0.4, "untrained-0": 0.5},
        "b": {"none": 0.7, "a": 0.2, "b": 0.1, "untrained-0": 0.5},
        "untrained-0": {"none": 1.0, "a": 0.5, "b": 0.8, "untrained-0": 0.9},
    }
    systems = {
        system_of(row, column): {"asr": rate(total / 4, 0.03), "orr": rate(0.75 * total, 0.04), "ftr": rate(0.5)}
        for row, columns in sums.items()
        for column, total in columns.items()
    }
    found = matrix(systems, [one, two, start], [one, two, start])
    cell = found["cells"]["a"]["b"]["asr_plus_orr"]
    assert [cell[name] for name in ("low", "value", "high", "n")] == pytest.approx([0.35, 0.4, 0.45, 20])
    pairs, untrained = found["summary"]["trained pair"], found["summary"]["untrained"]
    means = {name: pairs[name]["mean"] for name in pairs}
    assert means == pytest.approx(
        {"alone": 0.65, "own": 0.15, "strangers": 0.3, "strangers_minus_alone": -0.35, "strangers_minus_own": 0.15}
    )
    assert {name: untrained[name]["mean"] for name in ("alone", "own", "strangers")} == pytest.approx(
        {"alone": 1.0, "own": 0.9, "strangers": 0.8}
    )
    assert pairs["strangers_minus_alone"]["n"] == 2
    assert pairs["strangers_minus_alone"]["high"] == pytest.approx(-0.35 + 12.706 * 0.15, abs=1e-3)  # t(0.975, 1)
    figure = heat_map(found, "mine")
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert numbers == ["60", "20", "40", "50", "70", "20", "10", "50", "100", "50", "80", "90"]


def test_the_matrix_of_ten_runs_fits_into_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"seed-{number}-trained_pair" for number in range(10)]
    sums = {one: {"none": rate(0.5)} | {other: rate(i / 10) for i, other in enumerate(names)} for one in names}
    cells = {one: {other: dict.fromkeys(RATES, sums[one][other]) for other in sums[one]} for one in names}
    kinds = dict.fromkeys(names, "trained pair")
    show_cross_play({"topics": {"conversation": kinds, "feedback": kinds, "cells": cells, "summary": {}}})
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if "trained_pair" in line and "±" not in line]
    assert ["10", names[9], "50", *(str(10 * i) for i in range(10))] in rows


def test_the_sum_of_two_shares_has_an_interval_of_both() -> None:
    """Below: the root of .03 and .04 squared is .05; above: .06 and .08 give .1."""
    both = added(Proportion(0.2, 0.17, 0.26, 10), Proportion(0.3, 0.26, 0.38, 30))
    assert [both.low, both.value, both.high, both.n] == pytest.approx([0.45, 0.5, 0.6, 40])
