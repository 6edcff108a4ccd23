"""``--preset smollm2``: a real small instruction-tuned model, warm-started, on the built-in prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from waltz_env.algorithms import LoopConfig, ReinforcePPConfig, SampleConfig, SurrogateConfig, waltz_stages
from waltz_env.lazy import lazy_attributes
from waltz_env.presets.chat import ChatOptions, build_workbench
from waltz_env.presets.chat.models import SMOLLM2
from waltz_env.presets.chat.templates import SHORT as TEMPLATES
from waltz_env.presets.recipe import Preset, Recipe
from waltz_env.rewards import RewardWeights

__all__ = ["OPTIONS", "PRESET", "RECIPE", "TEMPLATES", "build_workbench"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_attributes(__name__, renamed={"build": "waltz_env.presets.smollm2.build_workbench"})


def _learner(learning_rate: float, *, baseline: Literal["none", "group"]) -> ReinforcePPConfig:
    surrogate = SurrogateConfig(learning_rate=learning_rate, warmup_steps=4, minibatches=2, tokens_per_microbatch=2048)
    return ReinforcePPConfig(baseline=baseline, surrogate=surrogate)


# Everything that the warm start teaches is shorter than these token limits.
OPTIONS = ChatOptions(
    model=SMOLLM2,
    max_new_tokens=32,
    feedback_tokens=60,
    batch_size=48,
    system_prompts="short",
    warm_start=240,
    warm_start_share=0.4,
)

# As many games as half an hour on two CPU cores with bfloat16 allows. Departures from arXiv:2510.08240
# (docs/smollm2.md): a baseline by labels and a sample for every turn, as in the nano preset; both stages pay for
# improvement whether or not the flags are right, so a flag that spoils a good response costs reward; small learning
# rates with a warm-up, because the few games of a step say little about the right direction.
RECIPE = Recipe(
    judge="embedding",
    stages=waltz_stages(
        _learner(2e-4, baseline="group"),
        _learner(8e-4, baseline="none"),
        steps=(6, 24),
        weights=(RewardWeights(gated=False), RewardWeights(gated=False)),
    ),
    loop=LoopConfig(games=48, samples=SampleConfig(turns="all", group="labels"), save_every=2),
    options=OPTIONS,
)

PRESET = Preset(
    "SmolLM2-135M-Instruct, warm-started, two LoRA adapters; an hour or more on a CPU",
    RECIPE,
    build_workbench,
    base="HuggingFaceTB/SmolLM2-135M-Instruct",
    license="apache-2.0",
)
