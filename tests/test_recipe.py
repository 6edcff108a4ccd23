"""Recipes: stages of any number, methods and algorithms swapped in, and what cannot work."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest

from tests.tiny_preset import LEARNER, RECIPE, Outside
from waltz_env import CONVERSATION, FEEDBACK, UsageError
from waltz_env.algorithms import (
    GRPOConfig,
    LearnerConfig,
    LoopConfig,
    ReinforcePPConfig,
    SampleConfig,
    Stage,
    SurrogateConfig,
    algorithm,
)
from waltz_env.experiments import execute
from waltz_env.presets import Recipe, preset, with_algorithm, with_method, with_stages, with_steps
from waltz_env.rewards import SETUP_A, SETUP_C
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder

NANO = preset("nano").recipe


def learners(recipe: Recipe) -> list[LearnerConfig]:
    return [learner for stage in recipe.stages for learner in stage.learners.values()]


def test_a_preset_stamps_its_name_on_its_recipe() -> None:
    assert preset("nano").recipe.preset == "nano"
    assert preset("tests.tiny_preset:PRESET").recipe.preset == "tests.tiny_preset:PRESET"


def test_single_model_training_is_one_stage_of_the_conversation_agent_without_feedback() -> None:
    (stage,) = with_method(NANO, "single-model").stages
    assert (stage.steps, stage.rules.max_rounds) == (22, 0)
    assert stage.learners == {CONVERSATION: NANO.stages[1].learners[CONVERSATION]}


def test_feedback_only_training_keeps_both_stages_and_freezes_the_conversation_agent() -> None:
    stages = with_method(NANO, "feedback-only").stages
    assert [(stage.name, stage.steps, list(stage.learners)) for stage in stages] == [
        ("stage-1", 36, [FEEDBACK]),
        ("stage-2", 22, [FEEDBACK]),
    ]


@pytest.mark.parametrize("method", ["waltz", "single-model", "feedback-only"])
def test_a_recipe_knows_its_method_by_what_its_stages_train(method: str) -> None:
    assert with_method(NANO, method).method == method
    assert with_method(with_steps(NANO, 0, 3), method).method == method


def test_a_method_needs_a_stage_that_trains_its_agent() -> None:
    with pytest.raises(UsageError, match="single-model needs a stage that trains conversation_0"):
        with_method(with_method(NANO, "feedback-only"), "single-model")
    with pytest.raises(UsageError, match="Did you mean 'single-model'"):
        with_method(NANO, "single-modle")


def test_another_algorithm_takes_over_what_all_algorithms_have() -> None:
    for before, after in zip(learners(NANO), learners(with_algorithm(NANO, "grpo")), strict=True):
        assert isinstance(before, ReinforcePPConfig)
        assert after == GRPOConfig(surrogate=before.surrogate)
    assert [x.surrogate.learning_rate for x in learners(with_algorithm(NANO, "grpo"))] == [1e-3, 5e-4, 1e-3]  # type: ignore[attr-defined]


def test_the_algorithm_that_a_preset_has_keeps_the_presets_settings() -> None:
    assert with_algorithm(NANO, "reinforce++") == NANO
    assert with_algorithm(NANO, "reinforce++-baseline") != NANO  # other settings of the same class


CONFIG = algorithm("grpo", learning_rate=5e-7, clip=0.3)
"""An algorithm with settings of one's own: 5e-7 is the default rate, and was meant."""


@dataclass(frozen=True)
class NeedsGroups:
    """An algorithm of somebody else's that compares games on one prompt."""

    needs_groups: ClassVar[bool] = True
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)

    def build(self, policy: object, accelerator: object = None) -> object:
        return LEARNER.build(policy)  # type: ignore[arg-type]


def test_settings_of_ones_own_are_used_exactly_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert learners(with_algorithm(NANO, "test_recipe:CONFIG")) == [CONFIG] * 3


def test_a_class_of_ones_own_takes_over_what_all_algorithms_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    swapped = learners(with_algorithm(NANO, "test_recipe:NeedsGroups"))
    assert [x.surrogate for x in swapped] == [x.surrogate for x in learners(NANO)]  # type: ignore[attr-defined]
    outside: list[LearnerConfig] = [Outside()] * 3
    assert learners(with_algorithm(NANO, "tests.tiny_preset:Outside")) == outside  # it has nothing to take over


@pytest.mark.parametrize("learner", [algorithm("grpo"), algorithm("rloo"), NeedsGroups()])
def test_an_algorithm_that_compares_games_needs_several_per_prompt_or_groups_by_labels(learner: LearnerConfig) -> None:
    recipe = Recipe((Stage("only", 1, {FEEDBACK: learner}),), loop=LoopConfig(games=8))
    with pytest.raises(UsageError, match=r"--loop.branches 4 1 1"):
        recipe.check()
    replace(recipe, loop=LoopConfig(games=8, branches=(4, 1, 1))).check()
    replace(recipe, loop=LoopConfig(games=8, samples=SampleConfig(group="labels"))).check()


def test_agents_that_share_a_policy_learn_together_in_every_stage_that_has_steps() -> None:
    with pytest.raises(UsageError, match=r"stage-1 trains feedback_0 alone.* --stage-1.steps 0"):
        replace(NANO, shared_policy=True).check()
    replace(with_steps(NANO, 0, 5), shared_policy=True).check()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"stages": ()}, "at least one stage"),
        ({"stages": NANO.stages[:1] * 2}, "different names"),
        ({"seed": -1}, "seed must be 0 or more; got -1"),
        ({"test_samples": 0}, "test_samples must be 1 or more; got 0"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_when_it_is_made(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        replace(NANO, **changes)  # type: ignore[arg-type]


def test_one_number_of_steps_belongs_to_each_stage() -> None:
    assert [stage.steps for stage in with_steps(NANO, 3, 4).stages] == [3, 4]
    with pytest.raises(UsageError, match="has 2 stages; got 1 numbers"):
        with_steps(NANO, 3)


def test_a_recipe_of_three_stages_with_different_rules_trains_and_is_evaluated_by_the_last(tmp_path: Path) -> None:
    stages = (
        Stage("format", 1, {FEEDBACK: LEARNER}, SETUP_A),
        Stage("pair", 1, {FEEDBACK: LEARNER, CONVERSATION: LEARNER}, SETUP_C, Rules(max_rounds=2)),
        Stage("polish", 1, {CONVERSATION: LEARNER}, SETUP_C, Rules(always_revise=True)),
    )
    results = execute(replace(RECIPE, stages=stages), tmp_path / "run")
    assert results is not None
    assert list(results["sets"]["mine"]["systems"]) == ["baseline", "untrained_pair", "trained_pair"]
    lines = RunFolder(tmp_path / "run").read_metrics()
    assert [(line["step"], line["stage"]) for line in lines] == [(1, "format"), (2, "pair"), (3, "polish")]


def test_the_same_change_can_be_made_to_every_stage() -> None:
    assert {stage.weights for stage in with_stages(NANO, weights=SETUP_C).stages} == {SETUP_C}
