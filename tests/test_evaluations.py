"""Evaluating, judging again and benchmarking as commands: what is kept, continued, refused and told."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.games import BOMB, PROCESS, Speaker, WordJudge
from tests.tiny_preset import SWITCH
from waltz_env import CONVERSATION, Prompt, Trajectory, play, read_games, write_games
from waltz_env.cli import main
from waltz_env.experiments import EvaluationConfig, evaluate
from waltz_env.experiments.results import add_systems, reference
from waltz_env.experiments.watch import Done
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder

PRESET = "tests.tiny_preset:PRESET"
SWITCHED = "tests.tiny_preset:SWITCH"
DEAD = "rubric@http://127.0.0.1:9/v1#nobody"
UNTRAINED = ["baseline", "baseline_safeguard", "untrained_pair", "oracle_feedback"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained pair."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "--preset", PRESET, "--stage-1.steps", "0", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def switch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(SWITCH, "left", 0)
    monkeypatch.setattr(SWITCH, "responses", 0)
    # A shell starts its background jobs with SIGINT ignored; these tests interrupt however the suite was started.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def waltz(*words: object) -> int:
    return main([*map(str, words)])


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def games(texts: list[str], prompts: tuple[Prompt, ...] = (BOMB, PROCESS)) -> list[Trajectory]:
    return [
        play([prompts[number % len(prompts)]], {CONVERSATION: Speaker(text)}, judge=WordJudge(), rules=Rules(0))[0]
        for number, text in enumerate(texts)
    ]


def test_an_interrupted_evaluation_continues_with_the_systems_that_are_missing(run: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert waltz("evaluate", run, "--judge", SWITCHED, "--out", whole) == 0
    SWITCH.left = 4  # the first question, the untrained pair, its safeguarded drafts, then oracle feedback
    assert waltz("evaluate", run, "--judge", SWITCHED, "--out", parts) == 130
    assert list(results(parts)["sets"]["mine"]["systems"]) == UNTRAINED[:3]
    kept = {path: path.stat().st_mtime_ns for path in (parts / "games" / "held-out").iterdir()}
    assert len(kept) == 3
    assert waltz("evaluate", run, "--judge", SWITCHED, "--out", parts) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert results(parts)["sets"] == results(whole)["sets"]


@pytest.mark.parametrize(
    "changed",
    [["--samples", "2"], ["--judge", "tests.tiny_preset:Switch"], ["--safeguard", "rules"]],
    ids=lambda words: words[0],
)
def test_results_that_were_made_in_another_way_are_not_mixed(
    changed: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert waltz("evaluate", run, "--no-untrained", "--out", tmp_path / "out") == 0
    before = (tmp_path / "out" / "results.json").read_bytes()
    assert waltz("evaluate", run, "--no-untrained", *changed, "--out", tmp_path / "out") == 2
    assert "Choose another --out." in capsys.readouterr().err
    assert (tmp_path / "out" / "results.json").read_bytes() == before


def test_other_prompts_of_the_same_name_are_not_mixed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = tmp_path / "own.jsonl", tmp_path / "out"
    prompts.write_text('{"text": "How do I bake bread?", "kind": "benign"}\n')
    assert waltz("evaluate", run, "--no-untrained", "--prompts", prompts, "--out", out) == 0
    prompts.write_text('{"text": "How do I bake cake?", "kind": "benign"}\n')
    assert waltz("evaluate", run, "--no-untrained", "--prompts", prompts, "--out", out) == 2
    assert "other prompts" in capsys.readouterr().err


def test_an_evaluation_never_writes_into_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert waltz("evaluate", run, "--out", run) == 2
    assert "is the folder of a run" in capsys.readouterr().err


def test_progress_counts_systems_turns_and_verdicts(run: Path, tmp_path: Path) -> None:
    seen: list[Done] = []
    evaluate([RunFolder(run)], RunFolder(tmp_path), config=EvaluationConfig(), progress=seen.append)
    assert {done.of for done in seen} == {3}  # two groups of untrained systems and the trained pair
    assert (seen[0].parts, seen[-1].parts) == (0, 3)
    assert max(done.turns for done in seen) >= 2
    assert max(done.verdicts for done in seen) >= 2
    assert {done.now.partition(":")[0] for done in seen} == {"mine"}


def commands_with_a_judge(run: Path, stored: Path, out: Path) -> dict[str, list[object]]:
    return {
        "train": ["train", "--preset", PRESET, "--out", out],
        "evaluate": ["evaluate", run, "--out", out],
        "rejudge": ["rejudge", stored, "--out", out],
    }


@pytest.mark.parametrize("name", ["train", "evaluate", "rejudge"])
def test_a_judge_that_does_not_answer_is_told_before_any_work(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored, out = tmp_path / "games.jsonl", tmp_path / "out"
    write_games(stored, games(["UNSAFE", "No."]))
    assert waltz(*commands_with_a_judge(run, stored, out)[name], "--judge", DEAD) == 2
    errors = capsys.readouterr().err
    assert "no verdict on a first question, so nothing was begun" in errors
    assert not (out / "results.json").exists()
    assert not list(out.rglob("*.jsonl"))


def test_a_benchmark_asks_the_server_of_its_judge_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--preset", "tests.tiny_preset:DEAD", "--algorithms", "grpo", "--seeds", 1)
    assert waltz("benchmark", *arguments, "--out", tmp_path) == 2
    assert "no verdict on a first question" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["evaluate", "rejudge"])
def test_the_exit_status_tells_that_nothing_was_judged(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = tmp_path / "games.jsonl"
    write_games(stored, games(["UNSAFE", "No."]))
    command = commands_with_a_judge(run, stored, tmp_path / "out")[name]
    assert waltz(*command, "--judge", "tests.tiny_preset:Forgetful") == 1
    printed = capsys.readouterr()
    assert "Nothing was judged" in printed.err
    assert "forgotten" in printed.out


def test_commands_end_by_naming_their_results_and_a_next_command_that_works(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated, again = tmp_path / "evaluated here", tmp_path / "again"
    assert waltz("evaluate", run, "--out", evaluated) == 0
    stored = RunFolder(evaluated).games_of_system("mine", "trained_pair")
    assert waltz("rejudge", stored, "--judge", "rules", "--out", again) == 0
    printed = capsys.readouterr().out
    for folder in (evaluated, again):
        assert f"Results: {folder / 'results.json'}" in printed
    nexts = re.findall(r"^Next:\n  waltz (report .*)$", printed, re.MULTILINE)
    assert len(nexts) == 2
    for command in nexts:
        assert waltz(*shlex.split(command)) == 0
    assert "minus trained_pair on the same prompts" in printed


@pytest.mark.parametrize(
    ("systems", "runs", "expected"),
    [
        (["trained_pair", "baseline", "untrained_pair"], {}, "trained_pair"),
        (["baseline", "pair-1", "single_model_rl"], {"pair-1": {"method": "waltz"}}, "pair-1"),
        (["a", "b", "baseline"], {"a": {"method": "waltz"}, "b": {"method": "waltz"}}, "b"),
        (["single_model_rl", "single_model_rl_safeguard", "baseline"], {}, "single_model_rl"),
        (["feedback_only", "single_model_rl", "untrained_pair"], {}, "feedback_only"),
        (["mine", "yours"], {}, "yours"),
        (["mine"], {"gone": {"method": "waltz"}}, "mine"),
    ],
)
def test_the_trained_pair_is_what_others_are_compared_with(
    systems: list[str], runs: dict[str, Any], expected: str
) -> None:
    assert reference(systems, runs) == expected


@pytest.mark.parametrize("reverse", [False, True])
def test_the_order_of_files_does_not_decide_what_is_compared(reverse: bool, tmp_path: Path) -> None:
    source = RunFolder(tmp_path / "source")
    for system in ("baseline", "trained_pair", "untrained_pair"):
        add_systems(source, {"mine": {system: games(["UNSAFE", "No."])}})
    paths = sorted(source.held_out_games.iterdir(), reverse=reverse)
    assert waltz("rejudge", *paths, "--judge", "rules", "--out", tmp_path / "out") == 0
    compared = results(tmp_path / "out")["sets"]["mine"]["comparisons"]
    assert {system: each["against"] for system, each in compared.items()} == {
        "baseline": "trained_pair",
        "untrained_pair": "trained_pair",
    }


def test_an_interrupted_judge_is_asked_about_the_rest_alone(tmp_path: Path) -> None:
    stored, out = tmp_path / "games.jsonl", tmp_path / "out"
    write_games(stored, games(["UNSAFE", "No."] * 50))
    command = ("rejudge", stored, "--judge", SWITCHED, "--out", out)
    SWITCH.left = 3  # the first question, 64 games, and the others
    assert waltz(*command) == 130
    (unfinished,) = out.rglob("*.part")
    with unfinished.open("a") as file:
        file.write('99 {"schema": 1, "prom')  # a line that a crash cut
    SWITCH.responses = 0
    assert waltz(*command) == 0
    assert SWITCH.responses == 2 + 36
    assert not list(out.rglob("*.part"))
    again = read_games(RunFolder(out).games_of_system("games", "games"))
    assert [game.final.text for game in again] == ["UNSAFE", "No."] * 50
    assert {getattr(game.final.judgement, "judge", "") for game in again} == {"refusals"}
    SWITCH.responses = 0
    assert waltz(*command) == 0
    assert SWITCH.responses == 2


def test_verdicts_on_other_games_or_of_another_judge_are_not_mixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored, out = tmp_path / "games.jsonl", tmp_path / "out"
    write_games(stored, games(["UNSAFE", "No."]))
    assert waltz("rejudge", stored, "--judge", "rules", "--out", out) == 0
    assert waltz("rejudge", stored, "--judge", SWITCHED, "--out", out) == 2
    write_games(stored, games(["UNSAFE", "Yes."]))
    assert waltz("rejudge", stored, "--judge", "rules", "--out", out) == 2
    copied = RunFolder(out).games_of_system("games", "games")
    assert waltz("rejudge", copied, "--judge", "rules", "--out", out) == 2
    errors = capsys.readouterr().err
    assert errors.count("Choose another --out.") == 3


@pytest.mark.parametrize("name", ["train", "evaluate", "rejudge", "rescore", "report", "benchmark"])
def test_places_that_cannot_be_written_are_told_before_any_work(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = tmp_path / "games.jsonl"
    write_games(stored, games(["UNSAFE", "No."]))
    commands: dict[str, list[object]] = {
        "train": ["train", "--preset", PRESET],
        "evaluate": ["evaluate", run, "--judge", SWITCHED],
        "rejudge": ["rejudge", stored, "--judge", SWITCHED],
        "rescore": ["rescore", stored],
        "report": ["report", run],
        "benchmark": ["benchmark", "--preset", PRESET, "--algorithms", "grpo", "--seeds", 1],
    }
    for place in (stored, stored / "below", Path("/proc/nowhere")):
        if name == "rescore" and place == stored:
            continue  # a file may be replaced
        if name == "report" and place == stored:
            continue
        assert waltz(*commands[name], "--out", place) == 2
        errors = capsys.readouterr().err
        assert str(place.parent) in errors
        assert len(errors.strip().splitlines()) == 1
    assert SWITCH.responses == 0


DAMAGE: dict[str, Callable[[str], str]] = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "no sets": lambda text: json.dumps({"schema": 2, "preset": "x"}),
    "sets are a list": lambda text: json.dumps(json.loads(text) | {"sets": []}),
    "a set is a number": lambda text: json.dumps(json.loads(text) | {"sets": {"mine": 3}}),
    "no systems": lambda text: json.dumps(json.loads(text) | {"sets": {"mine": {}}}),
    "a rate is a number": lambda text: json.dumps({"schema": 2, "sets": {"mine": {"systems": {"a": {"asr": 1}}}}}),
    "a rate is a text": lambda text: re.sub(r'"value": [\d.]+', '"value": "many"', text),
    "scores are a list": lambda text: json.dumps(json.loads(text) | {"capabilities": {"trained": [1]}}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_results_are_told_before_any_work(
    damage: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, stored = tmp_path / "out", tmp_path / "games.jsonl"
    write_games(stored, games(["UNSAFE", "No."]))
    add_systems(RunFolder(out), {"mine": {"trained_pair": games(["UNSAFE", "No."])}}, {"judge": SWITCHED})
    (out / "results.json").write_text(DAMAGE[damage]((out / "results.json").read_text()))
    for command in (
        ["report", out],
        ["evaluate", run, "--judge", SWITCHED, "--out", out],
        ["rejudge", stored, "--judge", SWITCHED, "--out", out],
    ):
        assert waltz(*command) == 2
        assert str(out / "results.json") in capsys.readouterr().err
    assert SWITCH.responses == 0


def test_gaps_in_results_are_dashes_and_what_cannot_be_compared_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = RunFolder(tmp_path / "out")
    shutil.copytree(run, tmp_path / "whole")
    for system in ("baseline", "trained_pair", "untrained_pair"):
        add_systems(out, {"mine": {system: games(["UNSAFE", "No."])}})
    content = json.loads(out.results.read_text())
    systems = content["sets"]["mine"]["systems"]
    del systems["baseline"]["asr"], systems["untrained_pair"]["judge_error_rate"], systems["trained_pair"]["orr"]["low"]
    del content["sets"]["mine"]["comparisons"]
    content |= {"capabilities": {"trained": {"task": {"acc": 0.5}}}, "latency": {"adaptive": {"p50": 1.0}}}
    out.results.write_text(json.dumps(content))
    assert waltz("report", out.path) == 0
    out.games_of_system("mine", "baseline").unlink()
    assert waltz("report", out.path) == 0
    added = add_systems(out, {"mine": {"oracle_feedback": games(["No.", "Yes."])}})
    assert added["sets"]["mine"]["not_compared"] == {"baseline": "mine-baseline.jsonl is missing"}
    assert set(added["sets"]["mine"]["comparisons"]) == {"untrained_pair", "oracle_feedback"}
    out.games_of_system("mine", "trained_pair").unlink()
    assert set(add_systems(out, {})["sets"]["mine"]["systems"]) == {*systems, "oracle_feedback"}


def test_whoever_evaluates_the_laboratory_model_on_other_prompts_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.write_config({"preset": "nano"})
    prompts = tmp_path / "own.jsonl"
    prompts.write_text('{"text": "How do I bake bread?", "kind": "benign"}\n')
    assert waltz("evaluate", folder.path, "--prompts", prompts, "--out", tmp_path / "out") == 2  # no checkpoint
    assert "speaks its own small language" in capsys.readouterr().out
    assert waltz("evaluate", folder.path, "--out", tmp_path / "out") == 2
    assert "speaks its own" not in capsys.readouterr().out
