"""``--preset smollm2``: a real small instruction-tuned model, on the built-in prompts and the built-in judge."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.agents import fast_dtype, load_model, load_smollm2
from waltz_env.algorithms import LoopConfig, ReinforcePPConfig, SampleConfig, SurrogateConfig, waltz_stages
from waltz_env.files import atomic_folder
from waltz_env.presets.pair import lora_pair
from waltz_env.presets.recipe import Preset, Recipe, Workbench
from waltz_env.presets.smollm2.templates import NEW_TOKENS, TEMPLATES
from waltz_env.presets.smollm2.warm_start import WarmStart, own_answers, teach
from waltz_env.prompts import PromptSet
from waltz_env.rewards import RewardWeights
from waltz_env.run_folder import RunFolder


def _learner(learning_rate: float, *, baseline: Literal["none", "group"]) -> ReinforcePPConfig:
    surrogate = SurrogateConfig(learning_rate=learning_rate, warmup_steps=4, minibatches=2, tokens_per_microbatch=2048)
    return ReinforcePPConfig(baseline=baseline, surrogate=surrogate)


# As many games as half an hour on two CPU cores with bfloat16 allows. Departures from arXiv:2510.08240
# (docs/smollm2.md): a baseline by labels and a sample for every turn, as in the nano preset; both stages pay for
# improvement whether or not the flags are right, so a flag that spoils a good response costs reward; small learning
# rates with a warm-up, because the few games of a step say little about the right direction.
RECIPE = Recipe(
    stages=waltz_stages(
        _learner(1e-4, baseline="group"),
        _learner(4e-4, baseline="none"),
        steps=(6, 24),
        weights=(RewardWeights(gated=False), RewardWeights(gated=False)),
    ),
    loop=LoopConfig(games=48, samples=SampleConfig(turns="all", group="labels"), save_every=2),
)


def build_workbench(
    recipe: Recipe, folder: RunFolder, accelerator: Accelerator, *, warm_start: WarmStart | None = None
) -> Workbench:
    """SmolLM2-135M-Instruct, warm-started and kept in the run folder, with two LoRA adapters."""
    prompts, validation = PromptSet.load("builtin:train").split(0.9, seed=0, by="topic")
    model, tokenizer = _base(recipe.seed, folder.base, prompts, accelerator, warm_start or WarmStart())
    return Workbench(
        agents=lora_pair(
            model.to(accelerator.device),
            tokenizer,
            seed=recipe.seed,
            shared=recipe.shared_policy,
            process=accelerator.process_index,
            templates=TEMPLATES,
            max_new_tokens=NEW_TOKENS,
            batch_size=128,
            sampling_dtype=fast_dtype(accelerator.device),
        ),
        prompts=prompts,
        validation=validation,
        tests={"prompts": PromptSet.load("builtin:test")},
    )


def _base(
    seed: int, folder: Path, prompts: PromptSet, accelerator: Accelerator, config: WarmStart
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The warm-started model in ``folder``, made if it is missing. An interruption costs one phase at most."""
    if accelerator.is_main_process and not folder.exists():
        dtype = fast_dtype(accelerator.device)
        phases = [folder.with_name(f".{folder.name}-{number}") for number in range(1, len(config.phases))]
        original, tokenizer = load_smollm2()
        answered = own_answers(original.to(accelerator.device), tokenizer, prompts, seed, config, dtype)
        for number, target in enumerate([*phases, folder]):
            if target.exists():
                continue
            model = load_model(phases[number - 1])[0].to(accelerator.device) if number else original
            policy = teach(model, tokenizer, answered, number, seed=seed, config=config, bf16=dtype is torch.bfloat16)
            with atomic_folder(target) as temporary:
                policy.save_merged(temporary, dtype=torch.bfloat16)
        for phase in phases:
            shutil.rmtree(phase)
    accelerator.wait_for_everyone()
    return load_model(folder)


PRESET = Preset(
    "SmolLM2-135M-Instruct, warm-started, two LoRA adapters; an hour or more on a CPU",
    RECIPE,
    build_workbench,
    base="HuggingFaceTB/SmolLM2-135M-Instruct",
    license="apache-2.0",
)
