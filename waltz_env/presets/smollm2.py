"""``--preset smollm2``: a real small instruction-tuned model, on the built-in prompts and the built-in judge."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator

from waltz_env.agents import fast_dtype, load_smollm2
from waltz_env.algorithms import ReinforcePPConfig, TrainConfig
from waltz_env.judges import RuleJudge
from waltz_env.presets.pair import lora_pair
from waltz_env.presets.recipe import Preset, Recipe, Workbench
from waltz_env.prompts import PromptSet
from waltz_env.types import CONVERSATION, FEEDBACK

_LEARNER = ReinforcePPConfig(learning_rate=1e-4, old_logprobs="trainer", tokens_per_microbatch=4096)

RECIPE = Recipe(
    preset="smollm2",
    stage_1_steps=60,
    stage_2_steps=60,
    feedback=_LEARNER,
    feedback_stage_2=_LEARNER,
    conversation=_LEARNER,
    loop=TrainConfig(games=16, save_every=5),
)


def build(recipe: Recipe, folder: Path, accelerator: Accelerator) -> Workbench:
    """SmolLM2-135M-Instruct with two LoRA adapters, sampled in bfloat16 where that is faster."""
    model, tokenizer = load_smollm2()
    policies, agents = lora_pair(
        model.to(accelerator.device),
        tokenizer,
        seed=recipe.seed,
        process=accelerator.process_index,
        max_new_tokens={CONVERSATION: 64, FEEDBACK: 96},
        sampling_dtype=fast_dtype(accelerator.device),
    )
    prompts, validation = PromptSet.load("builtin:train").split(0.9, seed=0, by="topic")
    return Workbench(
        policies=policies,
        agents=agents,
        judge=RuleJudge(),
        prompts=prompts,
        validation=validation,
        tests={"prompts": PromptSet.load("builtin:test")},
    )


PRESET = Preset("SmolLM2-135M-Instruct, two LoRA adapters, built-in prompts; hours on a CPU", RECIPE, build)
