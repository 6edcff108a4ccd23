"""Every example runs, and shows what it says it shows. Long ones are shortened by their arguments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.example import EXAMPLES, load
from waltz_env.presets import nano, smollm2
from waltz_env.presets.chat import preset as chat
from waltz_env.presets.chat.warm_start import WarmStart, own_answers
from waltz_env.presets.nano.warm_start import NanoConfig, build_model


def test_quickstart_earns_the_full_feedback_reward(capsys: pytest.CaptureFixture[str]) -> None:
    assert load("quickstart").main() == pytest.approx(1.0)
    assert "-- response 1" in capsys.readouterr().out


def test_custom_loop_learns_with_nothing_of_the_learners() -> None:
    first, last = load("custom_loop").main(games=1500)
    assert last > first + 0.1


def test_your_own_judge_calls_a_long_answer_overrefusing() -> None:
    assert load("your_own_judge").main() == [True, False]


def test_your_own_agent_mends_some_responses() -> None:
    shown = load("your_own_agent").main()
    assert 0.3 < shown["label_accuracy"] <= 1.0
    assert 0 < shown["ftr"] < 1


def test_two_stage_recipe_runs_as_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nano, "build_model", lambda seed: build_model(seed, NanoConfig(width=16, steps=5)))
    shown = load("train_waltzrl").main(steps=(1, 1), games=4, out=tmp_path / "run")
    assert shown["before"].keys() == shown["after"].keys() >= {"asr", "orr", "label_accuracy"}
    assert (tmp_path / "run" / "games" / "training" / "step-00002.jsonl").exists()


def test_smollm2_makes_two_real_training_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = replace(smollm2.RECIPE, options=replace(smollm2.OPTIONS, warm_start=1))
    monkeypatch.setattr(smollm2, "RECIPE", recipe)
    monkeypatch.setattr(chat, "WarmStart", lambda **settings: WarmStart(**settings, batch_size=12))
    monkeypatch.setattr(
        chat,
        "own_answers",
        lambda model, tokenizer, prompts, *rest: own_answers(model, tokenizer, prompts[:12], *rest),
    )
    last = load("train_smollm2").main(steps=(1, 1), games=2, out=tmp_path / "run")
    assert last["step"] == 2
    assert (tmp_path / "run" / "checkpoints" / "step-00002").exists()


def test_sb3_ppo_beats_random_and_never_flag_on_held_out_prompts() -> None:
    returns = load("sb3_ppo").main()
    assert returns["PPO"] > max(returns["random"], returns["never flags"]) + 0.2
    assert returns["PPO"] > returns["contradicts"]  # it learned something of the prompts, too


def test_supersuit_trains_both_roles_with_one_policy() -> None:
    measured = load("supersuit_both_roles").main(steps=12_000)
    assert measured["PPO"]["final ok"] > measured["random"]["final ok"] + 0.1
    assert measured["PPO"]["feedback return"] > measured["random"]["feedback return"]


def test_every_example_has_a_test_and_stays_short() -> None:
    tested = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    for path in EXAMPLES.glob("*.py"):
        loaded_by_a_command = f'"{path.stem.replace("_", "-")}"'
        assert f'load("{path.stem}")' in tested or loaded_by_a_command in tested
        assert len(path.read_text().splitlines()) <= 110
