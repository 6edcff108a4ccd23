"""A preset on the tiny model, for what runs in other processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents import LanguageModelPolicy, TransformersAgent
from waltz_env.algorithms import Learner, ReinforcePPConfig, SurrogateConfig, TrainConfig
from waltz_env.judges import RuleJudge
from waltz_env.presets import Preset, Recipe, Workbench, lora_pair
from waltz_env.presets.nano.templates import conversation_messages, feedback_messages
from waltz_env.prompts import PromptSet
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Kind, Prompt

LEARNER = ReinforcePPConfig(surrogate=SurrogateConfig(learning_rate=1e-2, min_reward_std=0.0))
RECIPE = Recipe(
    preset="tests.tiny_preset:PRESET",
    stage_1_steps=1,
    stage_2_steps=1,
    feedback=LEARNER,
    feedback_stage_2=LEARNER,
    conversation=LEARNER,
    loop=TrainConfig(games=4, games_per_prompt=2, rows="all"),
)


def tiny_pair(
    seed: int, *, shared: bool = False
) -> tuple[dict[AgentID, LanguageModelPolicy], dict[AgentID, TransformersAgent]]:
    """Policies and agents of both roles on one tiny model."""
    return lora_pair(
        tiny_model(),
        tiny_tokenizer(),
        seed=seed,
        rank=4,
        shared=shared,
        templates={CONVERSATION: conversation_messages, FEEDBACK: feedback_messages},
        max_new_tokens=5,
    )


def build(recipe: Recipe, folder: Path, accelerator: object) -> Workbench:
    """Everything small."""
    policies, agents = tiny_pair(recipe.seed, shared=recipe.shared_policy)
    prompts = PromptSet([Prompt(f"prompt {kind}", kind, id=str(kind)) for kind in Kind])
    return Workbench(policies, agents, RuleJudge(), prompts, prompts, {"mine": prompts})


PRESET = Preset("for tests", RECIPE, build)
APART = Preset("for tests", RECIPE, lambda recipe, *rest: build(replace(recipe, shared_policy=False), *rest))


class Outside:
    """Settings of an algorithm from another package."""

    def build(self, policy: LanguageModelPolicy, accelerator: object = None) -> Learner:
        """A learner."""
        return LEARNER.build(policy)


class Broken:
    """Settings of an algorithm that does not work."""

    def build(self, policy: LanguageModelPolicy, accelerator: object = None) -> Learner:
        """Nothing."""
        raise RuntimeError("planted")
