"""``--preset llama-3.1-8b``: the models, data, judge and hyper-parameters of arXiv:2510.08240, section 4.

1. As the paper: two copies of Llama-3.1-8B-Instruct with all weights trained; 32 games per step; one update of each
   learning agent on at most 32 samples; learning rate 5e-7, beta 0.01, eps 0.2; at most 512 new tokens per turn after a
   prompt of at most 4,096; its mix of 20,000 prompts, one half per stage, one epoch; WildGuard as the judge.
2. Left open by the paper, chosen here: temperature 1; AdamW at a constant rate; the choice of the 20,000 prompts, which
   depends on the seed.
3. Both agents start from the same weights and share one frozen reference. The processes of the run, one per GPU, split
   all three models among them, and activations are computed again in the backward pass.
4. ``llama-3.1-8b-lora`` is for one GPU: two LoRA adapters on one base in bfloat16, at ten times that learning rate.

A folder with the model's name in the current folder stands in for the hub. Hardware and commands: docs/llama.md.
"""

from __future__ import annotations

from dataclasses import replace

from accelerate import Accelerator

from waltz_env.algorithms import LoopConfig, ReinforcePPConfig, SurrogateConfig, waltz_stages, with_settings
from waltz_env.errors import UsageError
from waltz_env.presets import chat
from waltz_env.presets.chat import ChatOptions, options_of
from waltz_env.presets.recipe import Preset, Recipe, Workbench
from waltz_env.prompts import PromptSet, paper_mix
from waltz_env.prompts.paper_mix import ATTACKS, TESTS
from waltz_env.run_folder import RunFolder

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
LICENSE = "llama3.1"
JUDGE = "wildguard"
CONTEXT = 4096 + 512
LEARNER = ReinforcePPConfig(
    surrogate=SurrogateConfig(
        learning_rate=5e-7,
        beta=0.01,
        clip=0.2,
        old_logprobs="trainer",  # sampled in bfloat16, trained in float32 with autocast
        tokens_per_microbatch=4096,
    )
)

RECIPE = Recipe(
    stages=waltz_stages(LEARNER, LEARNER, steps=(312, 312)),
    judge=JUDGE,
    loop=LoopConfig(games=32, save_every=156, keep_checkpoints=1),  # one checkpoint is 192 GB
    options=ChatOptions(
        model=MODEL, all_weights=True, gradient_checkpointing=True, context=CONTEXT, prompts=(), test=()
    ),
    shard=True,
)
LORA_LEARNER = with_settings(LEARNER, learning_rate=5e-6, tokens_per_microbatch=2048)
LORA_RECIPE = replace(
    RECIPE,
    stages=waltz_stages(LORA_LEARNER, LORA_LEARNER, steps=(312, 312)),
    loop=LoopConfig(games=32, save_every=26),
    shard=False,
    options=ChatOptions(model=MODEL, dtype="bfloat16", context=CONTEXT, prompts=(), test=()),
)


def build_workbench(recipe: Recipe, folder: RunFolder, accelerator: Accelerator) -> Workbench:
    """The models of the recipe's options, with the paper's prompts unless the options name others."""
    options = options_of(recipe)
    if options.prompts and options.test:
        return chat.build_workbench(recipe, folder, accelerator)
    if options.prompts or options.test:
        raise UsageError("Name both --prompts and --test, or neither: the paper's prompts and test sets go together.")
    # Stage 1 trains on the first half of the mix and stage 2 on the second; single-model RL, the paper's baseline, has
    # the second half, too.
    first, second = paper_mix(seed=recipe.seed)
    tests = {name: PromptSet.load(name) for name in TESTS}
    tests["wildjailbreak-eval"] = tests["wildjailbreak-eval"].category(ATTACKS)  # its 2,000 attacks, as in the paper
    return Workbench(
        agents=chat.build_agents(recipe, folder, accelerator=accelerator, prompts=first),
        prompts={stage.name: first if stage.name == "stage-1" else second for stage in recipe.stages},
        validation=PromptSet.load("builtin:test"),
        tests=tests,
    )


PRESET = Preset(
    "two Llama-3.1-8B-Instruct, as in the paper; about half a day on 8 GPUs of 80 GB, by torchrun",
    RECIPE,
    build_workbench,
    base=MODEL,
    license=LICENSE,
)
LORA_PRESET = Preset(
    "Llama-3.1-8B-Instruct, two LoRA adapters; about half a day on a GPU of 80 GB",
    LORA_RECIPE,
    build_workbench,
    base=MODEL,
    license=LICENSE,
)
