"""Flags and files of ``waltz train``: every setting of every algorithm, none ignored, the more specific one wins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_preset import LongDraftsOnly
from waltz_env import CONVERSATION, FEEDBACK
from waltz_env.algorithms import ALGORITHMS, settings_of
from waltz_env.cli import parse
from waltz_env.errors import DataError, UsageError
from waltz_env.experiments.saved_run import claim
from waltz_env.presets import Recipe, preset, with_algorithm, with_method, with_stages, with_steps
from waltz_env.rewards import SETUP_C, RewardWeights
from waltz_env.run_folder import RunFolder

NANO = preset("nano").recipe


def recipe(*arguments: str) -> Recipe:
    """What ``waltz train`` would train."""
    result: Recipe = parse(["train", *arguments]).recipe  # type: ignore[attr-defined]
    return result


def values(made: Recipe, name: str) -> list[Any]:
    """A setting of every learner: feedback in stage 1, feedback and conversation in stage 2."""
    return [settings_of(learner)[name] for stage in made.stages for learner in stage.learners.values()]


def test_without_flags_the_recipe_is_the_presets() -> None:
    assert recipe() == NANO
    for name in ("nano", "smollm2", "llama-3.1-8b", "llama-3.1-8b-lora"):
        assert recipe("--preset", name) == preset(name).recipe


def test_the_price_of_a_token_is_a_fourth_reward_weight() -> None:
    made = recipe("--stage-2.weights", "0.65,0.1,0.1,0.002")
    assert made.stages[1].weights == RewardWeights(0.65, 0.1, 0.1, length=0.002)
    assert made.stages[0] == NANO.stages[0]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_setting_of_every_algorithm_is_a_flag(name: str) -> None:
    base = with_algorithm(NANO, name)
    learner = base.stages[0].learners[FEEDBACK]
    flags: list[str] = []
    for setting, value in settings_of(learner).items():
        flag = f"--learner.{setting.replace('_', '-')}"
        if isinstance(value, bool | int | float | str):
            flags += [flag, str(value)]
        elif isinstance(value, tuple):
            flags += [flag, *map(str, value)]
        else:  # the critic's settings
            for inner, number in vars(value).items() if hasattr(value, "__dict__") else slots_of(value):
                flags += [f"{flag}.{inner.replace('_', '-')}", str(number)]
    made = recipe("--algorithm", name, *flags)
    assert [*made.stages[0].learners.values()] == [learner]
    assert [type(x) for x in made.stages[1].learners.values()] == [type(learner)] * 2


def slots_of(value: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(value, name)) for name in value.__dataclass_fields__]


def test_settings_of_ppo_and_its_critic_are_flags() -> None:
    made = recipe("--algorithm", "ppo", "--learner.gae-lambda", "0.95", "--learner.critic.epochs", "3")
    assert values(made, "gae_lambda") == [0.95] * 3
    assert [critic.epochs for critic in values(made, "critic")] == [3] * 3
    assert values(made, "learning_rate") == [1e-3, 5e-4, 1e-3]  # still the preset's


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--algorithm", "grpo", "--feedback.baseline", "group"),
            "stage-1.feedback, a GRPOConfig, has no setting 'baseline'",
        ),
        (("--algorithm", "grpo", "--learner.gae-lambda", "1"), "has no setting 'gae-lambda'"),
        (("--feedback.scale", "none"), "a ReinforcePPConfig, has no setting 'scale'"),
        (("--learner.learning-rat", "1"), "Did you mean 'learning-rate'?"),
        (("--stage-2.conversation.gae-lambda=1",), "stage-2.conversation, a ReinforcePPConfig, has no setting"),
        (("--stage-1.conversation.beta", "1"), "stage-1 does not train the conversation agent"),
        (("--method", "single-model", "--feedback.beta", "1"), "no stage of this recipe trains the feedback agent"),
        (("--rules.max-round", "2"), "Did you mean 'max-rounds'?"),
        (("--learner.critic.epochs", "1"), "has no setting 'critic.epochs'"),
        (("--algorithm", "grppo"), "Did you mean 'grpo'?"),
        (("--method", "waltzer"), "Did you mean 'waltz'?"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(arguments: tuple[str, ...], expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe(*arguments)
    assert expected in str(caught.value)


def test_the_more_specific_flag_wins_wherever_it_stands() -> None:
    flags = ("--stage-2.feedback.beta", "3", "--feedback.beta", "2", "--learner.beta", "1")
    assert values(recipe(*flags), "beta") == [2, 3, 1]


def test_a_rule_for_all_stages_and_one_for_one_stage() -> None:
    made = recipe("--rules.max-rounds", "2", "--stage-1.rules.max-rounds=3", "--rules.always-revise")
    assert [(s.rules.max_rounds, s.rules.always_revise) for s in made.stages] == [(3, True), (2, True)]


def test_flags_follow_the_method() -> None:
    made = recipe("--method", "single-model", "--single-model.steps", "7", "--conversation.learning-rate", "0.1")
    (stage,) = made.stages
    assert (stage.steps, settings_of(stage.learners[CONVERSATION])["learning_rate"]) == (7, 0.1)
    assert made.method == "single-model"


TOML = """
preset = "nano"
algorithm = "ppo"
seed = 3

[loop]
games = 64
samples = { turns = "one" }

[learner]
gae_lambda = 0.9
betas = [0.8, 0.9]
critic = { epochs = 5 }

[feedback]
learning_rate = 2e-4

[stage-1]
steps = 0
weights = "C"

[stage-2.conversation]
beta = 0.5
"""


def test_a_toml_file_has_the_flags_as_keys_and_flags_win(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TOML)
    made = recipe("--config", str(path))
    assert (made.seed, made.loop.games, made.loop.samples.turns) == (3, 64, "one")
    assert values(made, "gae_lambda") == [0.9] * 3
    assert values(made, "betas") == [(0.8, 0.9)] * 3
    assert [critic.epochs for critic in values(made, "critic")] == [5] * 3
    assert values(made, "learning_rate") == [2e-4, 2e-4, 1e-3]
    assert values(made, "beta") == [0.02, 0.1, 0.5]
    assert (made.stages[0].steps, made.stages[0].weights) == (0, SETUP_C)
    changed = recipe("--config", str(path), "--seed", "4", "--feedback.learning-rate", "1", "--stage-1.steps=2")
    assert (changed.seed, changed.stages[0].steps) == (4, 2)
    assert values(changed, "learning_rate") == [1, 1, 1e-3]


def test_the_config_of_an_earlier_run_gives_its_recipe_and_flags_win(tmp_path: Path) -> None:
    earlier = with_steps(with_algorithm(replace(NANO, seed=5), "rloo"), 1, 2)
    earlier = with_stages(earlier, rules=LongDraftsOnly(words=9))
    claim(RunFolder(tmp_path / "run"), earlier)
    path = str(tmp_path / "run" / "config.json")
    assert recipe("--config", path) == earlier
    changed = recipe("--config", path, "--seed", "6", "--rules.words", "4", "--learner.beta", "0")
    assert (changed.seed, changed.rules) == (6, LongDraftsOnly(words=4))
    assert values(changed, "beta") == [0] * 3
    assert recipe("--config", path, "--method", "single-model") == with_method(earlier, "single-model")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("mine.toml", "seed = ", "mine.toml is not TOML"),
        ("mine.toml", "[feedback]\nscale = 'none'", "has no setting 'scale'"),
        ("missing.toml", None, "missing.toml cannot be read: No such file"),
        ("config.json", "{}", "was written by waltz_env 0.1"),
        ("config.json", '{"schema": 2, "preset": "nano"}', "does not hold the settings of a run"),
        ("other.json", "{}", "give its config.json, or a TOML file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, content: str | None, expected: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises((DataError, UsageError), match=expected):
        recipe("--config", str(tmp_path / name))


@pytest.mark.parametrize(
    ("content", "expected"),
    [("seeds = 3", "--seeds"), ("[loop]\ngames = 0", "games must be 1 or more; got 0"), ("seed = 'x'", "--seed")],
)
def test_keys_and_values_of_a_file_are_checked_as_flags_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, expected: str
) -> None:
    (tmp_path / "mine.toml").write_text(content)
    with pytest.raises(SystemExit) as stop:
        recipe("--config", str(tmp_path / "mine.toml"))
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("more", [("--seed", "3"), ("--algorithm", "ppo"), ("--learner.beta=1",), ("--out", "x")])
def test_a_resumed_run_takes_no_other_settings(more: tuple[str, ...]) -> None:
    for arguments in (("--resume", "run", *more), (*more, "--resume", "run"), (*more, "--resume=run")):
        with pytest.raises(UsageError, match="leave out everything but --resume"):
            recipe(*arguments)
    assert parse(["train", "--resume", "run"]).resume == Path("run")  # type: ignore[attr-defined]
    assert parse(["train", "--resume=run"]).resume == Path("run")  # type: ignore[attr-defined]
