"""``--preset nano``: the laboratory model, its prompts, and the settings chosen on its validation split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.algorithms import LoopConfig, ReinforcePPConfig, SampleConfig, SurrogateConfig, waltz_stages
from waltz_env.checks import check_settings
from waltz_env.errors import CheckpointError
from waltz_env.files import atomic_folder
from waltz_env.presets.nano import splits
from waltz_env.presets.nano.grammar import THOUGHT_END
from waltz_env.presets.nano.templates import NEW_TOKENS, TEMPLATES, THINKING_TOKENS
from waltz_env.presets.nano.tokenizer import VOCABULARY
from waltz_env.presets.nano.warm_start import NanoConfig, build_model
from waltz_env.presets.pair import lora_pair
from waltz_env.presets.recipe import Preset, Recipe, Workbench
from waltz_env.prompts import PromptSet
from waltz_env.run_folder import RunFolder
from waltz_env.types import CONVERSATION


@dataclass(frozen=True, slots=True)
class NanoOptions:
    """Settings of the laboratory's own.

    Attributes:
        thinking: let the conversation agent work out in private what a request means before it answers.
    """

    thinking: bool = False

    def __post_init__(self) -> None:
        check_settings(self)

    def check(self) -> None:
        """Nothing can be wrong."""


def _learner(learning_rate: float, *, baseline: Literal["none", "group"], beta: float = 0.01) -> ReinforcePPConfig:
    return ReinforcePPConfig(
        baseline=baseline, surrogate=SurrogateConfig(learning_rate=learning_rate, beta=beta, minibatches=4)
    )


# Chosen on the validation split. Departures from arXiv:2510.08240, each for a reason that docs/nano.md shows: the
# feedback agent's reward less the mean over games in the same state, its KL penalty of stage 2 taken to the policy that
# stage 2 starts from and ten times as strong, every turn a sample, and four optimizer steps on 128 games instead of one
# on 32.
RECIPE = Recipe(
    judge="task",
    stages=waltz_stages(
        _learner(1e-3, baseline="group", beta=0.02),
        _learner(1e-3, baseline="none"),
        feedback_stage_2=_learner(5e-4, baseline="group", beta=0.1),
        steps=(36, 22),
        reset_reference=True,
    ),
    loop=LoopConfig(games=128, samples=SampleConfig(turns="all", group="labels")),
    test_samples=4,
    options=NanoOptions(),
)


def build_workbench(
    recipe: Recipe, folder: RunFolder, accelerator: Accelerator, *, warm_start: NanoConfig | None = None
) -> Workbench:
    """The warm-started model, kept in the run folder so that nothing builds it twice, with two LoRA adapters."""
    thinking = isinstance(recipe.options, NanoOptions) and recipe.options.thinking
    model, tokenizer = _base(recipe.seed, folder.base, accelerator, warm_start or NanoConfig(thinking=thinking))
    return Workbench(
        agents=lora_pair(
            model.to(accelerator.device),
            tokenizer,
            seed=recipe.seed,
            shared=recipe.shared_policy,
            process=accelerator.process_index,
            templates=TEMPLATES,
            max_new_tokens={**NEW_TOKENS, CONVERSATION: THINKING_TOKENS} if thinking else NEW_TOKENS,
            thoughts_end={CONVERSATION: THOUGHT_END} if thinking else {},
            batch_size=256,
        ),
        prompts=PromptSet(splits.train()),
        validation=PromptSet(splits.validation()),
        tests={"combinations": PromptSet(splits.combinations()), "topics": PromptSet(splits.unseen_topics())},
    )


def _base(
    seed: int, folder: Path, accelerator: Accelerator, config: NanoConfig
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if gather_object([not folder.exists()])[0]:  # all processes do what the first one sees
        with tqdm(total=config.steps, desc="warm start", disable=not accelerator.is_main_process) as bar:
            built = build_model(seed, config, on_step=lambda *_: bar.update(), accelerator=accelerator)
        if accelerator.is_main_process:
            with atomic_folder(folder) as temporary:
                for part in built:
                    part.save_pretrained(temporary)
    accelerator.wait_for_everyone()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if len(tokenizer) != VOCABULARY:
        raise CheckpointError(
            f"The model in {folder} speaks the laboratory language of an earlier version, which had {len(tokenizer)} "
            f"tokens and not {VOCABULARY}. Train it again, or use the version that it was made with."
        )
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return model.eval(), tokenizer


PRESET = Preset(
    "a laboratory model of 0.6 M parameters, built on the spot; minutes on a CPU",
    RECIPE,
    build_workbench,
    threads=1,  # for a model of this size a second thread costs more than it gains
)
