"""What a training run is made of: its settings (``Recipe``), and what a preset builds from them (``Workbench``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from accelerate import Accelerator

from waltz_env.agents import LanguageModelPolicy
from waltz_env.algorithms import (
    LearnerConfig,
    ReinforcePPConfig,
    Stage,
    TrainConfig,
    algorithm,
    needs_groups,
    settings_of,
    single_model_stage,
    waltz_stages,
    with_settings,
)
from waltz_env.errors import UsageError
from waltz_env.prompts import PromptSet
from waltz_env.protocols import Agent, Judge
from waltz_env.rewards import SETUP_A, SETUP_B, RewardWeights
from waltz_env.types import FEEDBACK, AgentID


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run.

    Attributes:
        preset: models, prompts and judge, by name.
        method: waltz trains the pair in two stages; single-model trains the conversation agent alone on R_c, without
            feedback, for the steps of stage 2; feedback-only keeps the conversation agent frozen in both stages.
        seed: of everything that is random.
        algorithm: learns in place of the preset's, by name or dotted path (see ``algorithms.registry``); it takes over
            the learning rates and the other common settings of the learners below.
        judge: labels the responses in training, by name (see ``load_judge``); the preset's by default.
        stage_1_steps: steps in which the feedback agent learns alone; 0 leaves the stage out.
        stage_2_steps: steps in which both learn; 0 leaves the stage out.
        stage_1_weights: the feedback agent's reward in stage 1.
        stage_2_weights: the feedback agent's reward in stage 2.
        feedback: its learner in stage 1.
        feedback_stage_2: its learner in stage 2.
        conversation: the conversation agent's learner.
        loop: settings of the training loop.
        test_samples: games on each held-out prompt.
        max_rounds: rounds of feedback and revision at most.
        shared_policy: whether both roles have the same weights. They learn together, in stage 2 alone and with the same
            settings, so that baselines must suit both (``--algorithm role-baseline``).
    """

    preset: str
    method: Literal["waltz", "single-model", "feedback-only"] = "waltz"
    seed: int = 0
    algorithm: str | None = None
    judge: str | None = None
    stage_1_steps: int = 312
    stage_2_steps: int = 312
    stage_1_weights: RewardWeights = SETUP_A
    stage_2_weights: RewardWeights = SETUP_B
    feedback: ReinforcePPConfig = field(default_factory=ReinforcePPConfig)
    feedback_stage_2: ReinforcePPConfig = field(default_factory=ReinforcePPConfig)
    conversation: ReinforcePPConfig = field(default_factory=ReinforcePPConfig)
    loop: TrainConfig = field(default_factory=TrainConfig)
    test_samples: int = 1
    max_rounds: int = 1
    shared_policy: bool = False

    def stages(self) -> tuple[Stage, ...]:
        """The stages of ``method``.

        Raises:
            UsageError: settings that cannot be together.
        """
        if self.shared_policy and (self.method != "waltz" or self.stage_1_steps):
            raise UsageError(
                "With one policy for both roles both learn from the first step: --shared-policy needs --method waltz "
                f"and --stage-1-steps 0; got {self.method} and {self.stage_1_steps}."
            )
        if self.method == "single-model":
            return (single_model_stage(self._learner(self.conversation), steps=self.stage_2_steps),)
        stages = waltz_stages(
            self._learner(self.feedback),
            self._learner(self.conversation),
            feedback_stage_2=self._learner(self.feedback_stage_2),
            steps=(self.stage_1_steps, self.stage_2_steps),
            weights=(self.stage_1_weights, self.stage_2_weights),
            max_rounds=self.max_rounds,
        )
        if self.method == "feedback-only":
            return tuple(replace(stage, learners={FEEDBACK: stage.learners[FEEDBACK]}) for stage in stages)
        return stages

    def _learner(self, settings: ReinforcePPConfig) -> LearnerConfig:
        if self.algorithm is None:
            return settings
        other = algorithm(self.algorithm)
        if needs_groups(other) and self.loop.games_per_prompt == 1 and self.loop.group == "prompt":
            raise UsageError(
                f"{self.algorithm} compares games on one prompt, and each prompt is played once. Set "
                "--loop.games-per-prompt to 4 or more, or --loop.group verdict."
            )
        if "learning_rate" not in settings_of(other):
            return other
        return with_settings(other, surrogate=settings.surrogate)

    @property
    def rounds(self) -> int:
        """Rounds of feedback that the result of ``method`` is played with: none after single-model training."""
        return self.stages()[-1].max_rounds


@dataclass(frozen=True)
class Workbench:
    """What a preset builds: everything that ``train`` and an evaluation need.

    Attributes:
        policies: the trainable weights of each agent.
        agents: who plays, with those weights.
        judge: labels every response, in training and in evaluation.
        prompts: to train on.
        validation: held-out prompts that settings may be chosen on.
        tests: held-out prompts for the results, by the name of the set.
        stage_prompts: a training set for each stage, where stages have their own parts of ``prompts``.
    """

    policies: Mapping[AgentID, LanguageModelPolicy]
    agents: Mapping[AgentID, Agent]
    judge: Judge
    prompts: PromptSet
    validation: PromptSet
    tests: Mapping[str, PromptSet]
    stage_prompts: Sequence[PromptSet] = ()


@dataclass(frozen=True)
class Preset:
    """A named way to train.

    Attributes:
        summary: one line for lists and help.
        recipe: its default settings.
        build: makes the workbench; the folder is the run's, where base models that were made on the spot are kept.
    """

    summary: str
    recipe: Recipe
    build: Callable[[Recipe, Path, Accelerator], Workbench]
