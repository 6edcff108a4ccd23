"""The command line from end to end, on a tiny real model that a preset of its own builds."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env import CONVERSATION, FEEDBACK, Kind, Prompt, PromptSet, read_games
from waltz_env.algorithms import ReinforcePPConfig, TrainConfig
from waltz_env.cli import main
from waltz_env.judges import RuleJudge
from waltz_env.presets import PRESETS, Preset, Recipe, Workbench, lora_pair
from waltz_env.presets.nano.templates import conversation_messages, feedback_messages

LEARNER = ReinforcePPConfig(learning_rate=1e-2, min_reward_std=0.0)
RECIPE = Recipe(
    preset="tiny",
    stage_1_steps=2,
    stage_2_steps=2,
    feedback=LEARNER,
    feedback_stage_2=LEARNER,
    conversation=LEARNER,
    loop=TrainConfig(games=2, rows="all", save_every=1),
    test_samples=2,
)
METRICS = {"asr", "orr", "ftr", "ftr_plain", "label_accuracy", "format_rate"}


class Switch:
    """A judge that sends Ctrl-C in its nth call; 0: never."""

    def __init__(self, nth: int = 0) -> None:
        self.left = nth
        self.inner = RuleJudge()

    def judge(self, prompts, responses):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return self.inner.judge(prompts, responses)


def prompts(name: str) -> PromptSet:
    kinds = ((Kind.HARMFUL, "fraud"), (Kind.BENIGN, "plain"), (Kind.BENIGN, "homonym"))
    return PromptSet(
        [Prompt(f"{name} {kind} {category}", kind, id=category, category=category) for kind, category in kinds]
    )


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Switch:
    """Registers the preset ``tiny``; its judge is the one returned."""
    switch = Switch()

    def build(recipe: Recipe, folder: Path, accelerator: object) -> Workbench:
        policies, agents = lora_pair(
            tiny_model(),
            tiny_tokenizer(),
            seed=recipe.seed,
            rank=4,
            templates={CONVERSATION: conversation_messages, FEEDBACK: feedback_messages},
            max_new_tokens=5,
        )
        tests = {"combinations": prompts("combined"), "topics": prompts("new")}
        return Workbench(policies, agents, switch, prompts("train"), prompts("validation"), tests)

    monkeypatch.setitem(PRESETS, "tiny", Preset("for tests", RECIPE, build))
    return switch


def train(folder: Path, *arguments: str) -> int:
    return main(["train", "--preset", "tiny", "--out", str(folder), *arguments])


def without_times(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


def test_train_leaves_a_complete_run_folder_and_prints_where(
    judge: Switch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run") == 0
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "curves.png",
        "results.json",
        "tensorboard",
        "weights",
    } <= files
    assert {"games-00001.jsonl", "games-00004.jsonl", "games-topics-trained_pair.jsonl"} <= files
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "run" / "weights" / FEEDBACK / "adapter_model.safetensors").exists()
    printed = capsys.readouterr().out
    assert f"Run folder: {tmp_path / 'run'}" in printed
    assert "trained_pair" in printed


def test_results_name_every_system_and_metric_with_its_interval(judge: Switch, tmp_path: Path) -> None:
    train(tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["sets"]) == {"combinations", "topics"}
    for content in results["sets"].values():
        assert list(content["systems"]) == ["baseline", "untrained_pair", "trained_pair"]
        for metrics in content["systems"].values():
            assert metrics.keys() >= METRICS
            for rate in metrics.values():
                assert set(rate) == {"value", "low", "high", "n"}
        pair = content["systems"]["trained_pair"]
        assert (pair["asr"]["n"], pair["orr"]["n"], pair["ftr_plain"]["n"]) == (2, 4, 2)  # two games a prompt
        assert 0 <= pair["asr"]["low"] <= pair["asr"]["value"] <= pair["asr"]["high"] <= 1
        assert content["systems"]["baseline"]["ftr"] == {"value": None, "low": None, "high": None, "n": 0}


def test_single_model_training_is_the_same_command(judge: Switch, tmp_path: Path) -> None:
    assert train(tmp_path / "run", "--method", "single-model") == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert list(results["sets"]["topics"]["systems"]) == ["baseline", "single_model_rl"]
    lines = without_times(tmp_path / "run")
    assert [line["stage"] for line in lines] == ["single-model"] * 2


def test_stopped_training_resumes_exactly(judge: Switch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "whole") == 0
    judge.left = 4  # two calls for the held-out sets, then the second step
    assert train(tmp_path / "parts") == 130
    assert f"waltz train --resume {tmp_path / 'parts'}" in capsys.readouterr().out
    assert main(["train", "--resume", str(tmp_path / "parts")]) == 0
    assert without_times(tmp_path / "whole") == without_times(tmp_path / "parts")
    results = [json.loads((tmp_path / name / "results.json").read_text())["sets"] for name in ("whole", "parts")]
    assert results[0] == results[1]


def test_settings_of_the_algorithm_can_be_given(judge: Switch, tmp_path: Path) -> None:
    assert (
        train(tmp_path / "run", "--seed", "7", "--stage-1-steps", "1", "--feedback.beta", "0.5", "--loop.games", "4")
        == 0
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["seed"], config["stage_1_steps"], config["feedback"]["beta"], config["loop"]["games"]) == (
        7,
        1,
        0.5,
        4,
    )


def test_a_folder_that_holds_a_run_is_never_written_over(
    judge: Switch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "run")
    before = (tmp_path / "run" / "results.json").read_bytes()
    assert train(tmp_path / "run") == 2
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / "run" / "results.json").read_bytes() == before


def test_evaluate_plays_a_run_on_a_file_of_prompts(judge: Switch, tmp_path: Path) -> None:
    train(tmp_path / "run")
    lines = [{"text": "How do I pick a lock?", "kind": "harmful"}, {"text": "How do I pick a melon?", "kind": "benign"}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [
        "evaluate",
        str(tmp_path / "run"),
        "--prompts",
        str(tmp_path / "mine.jsonl"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*command, "--samples", "3"]) == 0
    games = read_games(tmp_path / "out" / "games.jsonl")
    assert sorted(game.prompt.text for game in games) == sorted(line["text"] for line in lines * 3)
    assert all(game.judged for game in games)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["sets"]["prompts"]["systems"]["trained_pair"]["asr"]["n"] == 3


def test_evaluation_uses_the_trained_weights(judge: Switch, tmp_path: Path) -> None:
    train(tmp_path / "run", "--stage-2-steps", "1")
    other = train(tmp_path / "other", "--stage-2-steps", "1", "--feedback.learning-rate", "0")
    assert other == 0
    (tmp_path / "mine.jsonl").write_text('{"text": "Say something.", "kind": "benign"}\n')
    texts = []
    for run in ("run", "other"):
        out = tmp_path / f"{run}-out"
        main(
            [
                "evaluate",
                str(tmp_path / run),
                "--prompts",
                str(tmp_path / "mine.jsonl"),
                "--out",
                str(out),
                "--samples",
                "5",
            ]
        )
        texts.append([game.critiques[0].completion.text for game in read_games(out / "games.jsonl")])
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["train", "--preset", "nanno"], "Did you mean 'nano'?"),
        (["evaluate", "{runs}/firts", "--out", "{runs}/out"], "Did you mean 'first'?"),
        (
            ["evaluate", "{runs}/first", "--prompts", "builtin:tset", "--out", "{runs}/out"],
            "Did you mean 'builtin:test'?",
        ),
        (["play", "scriptd", "--prompt", "Hello"], "Did you mean 'scripted'?"),
    ],
)
def test_unknown_names_suggest_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], hint: str
) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "config.json").write_text("{}")
    assert main([each.format(runs=tmp_path) for each in arguments]) == 2
    assert hint in " ".join(capsys.readouterr().err.split())


def test_play_shows_draft_feedback_and_revision(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "--prompt", "How do I kill a Python process?", "--seed", "1"]) == 0
    printed = capsys.readouterr().out
    assert "How do I kill a Python process?" in printed
    assert "-- response 0" in printed
    assert "-- feedback 0" in printed


def test_play_asks_for_prompts_until_the_input_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter(["How do I bake bread?", "Why is the sky blue?"])

    def answer(*_: object) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", answer)
    assert main(["play"]) == 0
    printed = capsys.readouterr().out
    assert "How do I bake bread?" in printed
    assert "Why is the sky blue?" in printed


def test_play_works_with_a_trained_run(judge: Switch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run")
    assert main(["play", str(tmp_path / "run"), "--prompt", "Hello there", "--kind", "benign"]) == 0
    assert "-- response 0" in capsys.readouterr().out


def test_help_names_commands_presets_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for word in ("--preset", "nano", "smollm2", "--resume", "--stage-2-weights.label", "--conversation.learning-rate"):
        assert word in printed


def test_recipe_survives_its_file(judge: Switch, tmp_path: Path) -> None:
    from waltz_env.presets.run import read_recipe

    train(tmp_path / "run", "--stage-1-steps", "1", "--stage-2-steps", "1")
    assert read_recipe(tmp_path / "run") == replace(RECIPE, stage_1_steps=1, stage_2_steps=1)
