"""``--preset nano``: the laboratory model, its prompts, and the settings chosen on its validation split."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from tqdm import tqdm
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.algorithms import LoopConfig, ReinforcePPConfig, SampleConfig, SurrogateConfig, waltz_stages
from waltz_env.files import atomic_folder
from waltz_env.presets.nano import splits
from waltz_env.presets.nano.templates import NEW_TOKENS, TEMPLATES
from waltz_env.presets.nano.warm_start import NanoConfig, build_model
from waltz_env.presets.pair import lora_pair
from waltz_env.presets.recipe import Preset, Recipe, Workbench
from waltz_env.prompts import PromptSet
from waltz_env.rewards import SETUP_A, RewardWeights
from waltz_env.run_folder import RunFolder


def _learner(learning_rate: float, *, baseline: Literal["none", "group"]) -> ReinforcePPConfig:
    return ReinforcePPConfig(baseline=baseline, surrogate=SurrogateConfig(learning_rate=learning_rate, minibatches=4))


# Chosen on the validation split. Departures from arXiv:2510.08240, each for a reason that docs/nano.md shows: the
# feedback agent's reward less the mean over games in the same state (otherwise it learns to flag everything), a label
# reward of 0.1 kept in stage 2, every turn a sample, and four optimizer steps on 128 games instead of one on 32.
RECIPE = Recipe(
    judge="refusals",  # answers in the laboratory's language have no content
    stages=waltz_stages(
        _learner(1e-3, baseline="group"),
        _learner(5e-4, baseline="none"),
        feedback_stage_2=_learner(5e-4, baseline="group"),
        steps=(40, 35),
        weights=(SETUP_A, RewardWeights(label=0.1)),
    ),
    loop=LoopConfig(games=128, samples=SampleConfig(turns="all", group="labels")),
    test_samples=4,
)


def build_workbench(
    recipe: Recipe, folder: RunFolder, accelerator: Accelerator, *, warm_start: NanoConfig | None = None
) -> Workbench:
    """The warm-started model, kept in the run folder so that nothing builds it twice, with two LoRA adapters."""
    model, tokenizer = _base(recipe.seed, folder.base, accelerator, warm_start or NanoConfig())
    return Workbench(
        agents=lora_pair(
            model.to(accelerator.device),
            tokenizer,
            seed=recipe.seed,
            shared=recipe.shared_policy,
            process=accelerator.process_index,
            templates=TEMPLATES,
            max_new_tokens=NEW_TOKENS,
            batch_size=256,
        ),
        prompts=balanced(PromptSet(splits.train())),
        validation=PromptSet(splits.validation()),
        tests={"combinations": PromptSet(splits.combinations()), "topics": PromptSet(splits.unseen_topics())},
    )


def _base(
    seed: int, folder: Path, accelerator: Accelerator, config: NanoConfig
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if accelerator.is_main_process and not folder.exists():
        with tqdm(total=config.steps, desc="warm start") as bar:
            model, tokenizer = build_model(seed, config, on_step=lambda *_: bar.update())
        with atomic_folder(folder) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    accelerator.wait_for_everyone()
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def balanced(prompts: PromptSet) -> PromptSet:
    """As many harmful as benign prompts, as in arXiv:2510.08240."""
    size = 2 * min(len(prompts.harmful), len(prompts.benign))
    return PromptSet.mix({prompts.harmful: 1, prompts.benign: 1}, size, seed=0)


PRESET = Preset(
    "a laboratory model of 0.5 M parameters, built on the spot; minutes on a CPU",
    RECIPE,
    build_workbench,
    threads=1,  # for a model of this size a second thread costs more than it gains
)
