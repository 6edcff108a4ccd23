"""``--preset chat``: any chat model, any prompts, any judge. ``waltz train --model`` chooses it.

Departures from arXiv:2510.08240, all of them as in the nano preset and for its reasons (docs/nano.md): the feedback
agent's reward less the mean over games in the same state, a label reward of 0.1 kept in stage 2, every turn a sample.
The learning rate suits adapters on models of 1 to 8 billion parameters; nobody has tuned it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator

from waltz_env.agents import TinkerAgent, TransformersAgent, fast_dtype
from waltz_env.agents.engines import service_url, trains_elsewhere
from waltz_env.agents.tinker_policy import connect
from waltz_env.algorithms import LoopConfig, ReinforcePPConfig, SampleConfig, SurrogateConfig, waltz_stages
from waltz_env.errors import UsageError
from waltz_env.files import atomic_folder
from waltz_env.presets.chat import models
from waltz_env.presets.chat.options import ChatOptions
from waltz_env.presets.chat.prompt_sets import prompt_sets
from waltz_env.presets.chat.service import service_agents
from waltz_env.presets.chat.warm_start import WarmStart, own_answers, phases_of, teach
from waltz_env.presets.pair import shard
from waltz_env.presets.recipe import Preset, Recipe, Workbench
from waltz_env.prompts import PromptSet
from waltz_env.rewards import SETUP_A, RewardWeights
from waltz_env.run_folder import RunFolder
from waltz_env.types import CONVERSATION, AgentID


def _learner(*, baseline: Literal["none", "group"]) -> ReinforcePPConfig:
    surrogate = SurrogateConfig(
        learning_rate=2e-5,
        warmup_steps=4,
        old_logprobs="trainer",  # sampled in another precision than it is trained in
        tokens_per_microbatch=2048,
    )
    return ReinforcePPConfig(baseline=baseline, surrogate=surrogate)


RECIPE = Recipe(
    judge="embedding",
    stages=waltz_stages(
        _learner(baseline="group"),
        _learner(baseline="none"),
        feedback_stage_2=_learner(baseline="group"),
        steps=(50, 100),
        weights=(SETUP_A, RewardWeights(label=0.1)),
    ),
    loop=LoopConfig(games=64, samples=SampleConfig(turns="all", group="labels")),
    test_each_stage=True,
    options=ChatOptions(),
)


def build_workbench(recipe: Recipe, folder: RunFolder, accelerator: Accelerator) -> Workbench:
    """The models and prompts that the recipe's options name; both are kept in the run folder where they were made."""
    options = options_of(recipe)
    sets = prompt_sets(options.prompts, options.test, seed=recipe.seed, folder=folder, keep=accelerator.is_main_process)
    return Workbench(
        agents=build_agents(recipe, folder, accelerator=accelerator, prompts=sets.train),
        prompts=sets.train,
        validation=sets.validation,
        tests=sets.tests,
        sources=sets.sources,
    )


def build_agents(
    recipe: Recipe, folder: RunFolder, *, accelerator: Accelerator, prompts: PromptSet
) -> Mapping[AgentID, TransformersAgent | TinkerAgent]:
    """The agents alone, with weights in this process or, if the engine trains elsewhere, on its service.

    Args:
        recipe: settings of the run, with options for this preset.
        folder: run folder, which keeps the models of a warm start.
        accelerator: device and processes.
        prompts: prompts for a warm start.
    """
    options = options_of(recipe)
    if trains_elsewhere(recipe.engine):
        url = service_url(recipe.engine)
        return service_agents(connect(url), options, hosted=url is None, seed=recipe.seed, shared=recipe.shared_policy)
    sources: Mapping[AgentID, str | Path] = options.models
    if options.warm_start:
        sources = _warm_started(options, folder.base, prompts, seed=recipe.seed, accelerator=accelerator)
    load = partial(models.load, options=options, accelerator=accelerator)
    split = partial(shard, accelerator=accelerator) if recipe.shard else lambda weights: None
    policies = models.load_policies(
        options, sources, load=load, seed=recipe.seed, shared=recipe.shared_policy, split=split
    )
    return models.agents(options, policies, seed=recipe.seed, accelerator=accelerator)


def outlined_agents(recipe: Recipe, *, accelerator: Accelerator) -> dict[AgentID, TransformersAgent]:
    """The agents with models on the meta device, which have shapes and no weights. They cannot act.

    The arguments are those of ``build_agents``.
    """
    options = options_of(recipe)
    load = partial(models.outline, options=options, accelerator=accelerator)
    policies = models.load_policies(options, options.models, load=load, seed=recipe.seed, shared=recipe.shared_policy)
    return models.agents(options, policies, seed=recipe.seed, accelerator=accelerator)


def options_of(recipe: Recipe) -> ChatOptions:
    """The options of a recipe.

    Raises:
        UsageError: they are another preset's.
    """
    if not isinstance(recipe.options, ChatOptions):
        raise UsageError(f"The preset {recipe.preset} needs ChatOptions in the recipe's options; got {recipe.options}.")
    return recipe.options


def _warm_started(
    options: ChatOptions, folder: Path, prompts: PromptSet, *, seed: int, accelerator: Accelerator
) -> dict[AgentID, Path]:
    """Folders of the warm-started models, made if they are missing. An interruption costs one phase at most."""
    roles: dict[str, list[AgentID]] = {}
    for agent, source in options.models.items():
        roles.setdefault(source, []).append(agent)
    folders = {source: folder if len(roles) == 1 else folder / agents[0] for source, agents in roles.items()}
    missing = [source for source in roles if not folders[source].exists()]
    if missing and accelerator.is_main_process:
        config = WarmStart(
            phases=phases_of(options.warm_start),
            rank=options.adapter_rank,
            system_prompts=options.system_prompts,
            answer_tokens=max(1, options.max_new_tokens - 2),
            sampled_at_once=options.batch_size,
        )
        if options.warm_start_share < 1:
            prompts, _ = prompts.split(options.warm_start_share, seed)
        most = options.warm_start * config.batch_size  # no more than one answer per example
        if len(prompts) > most:
            kinds = (prompts.harmful.shuffle(seed), prompts.benign.shuffle(seed))
            prompts = PromptSet([prompt for kind in kinds for prompt in kind[: most // 2]])
        load = partial(models.load, options=replace(options, quantize="none"), accelerator=accelerator)
        sampled_in = models.sampling_dtype(options, accelerator.device)
        answered = own_answers(*load(options.models[CONVERSATION]), prompts, seed, config, sampled_in)
        bf16 = fast_dtype(accelerator.device) is torch.bfloat16
        for source in missing:
            target = folders[source]
            phases = [target.with_name(f".{target.name}-{number}") for number in range(1, len(config.phases))]
            for number, made in enumerate([*phases, target]):
                if made.exists():
                    continue
                model, tokenizer = load(phases[number - 1] if number else source)
                policy = teach(
                    model, tokenizer, answered, number, seed=seed, config=config, bf16=bf16, agents=roles[source]
                )
                with atomic_folder(made) as temporary:
                    policy.save_merged(temporary, dtype=torch.bfloat16)
            for phase in phases:
                shutil.rmtree(phase)
    accelerator.wait_for_everyone()
    return {agent: folders[source] for agent, source in options.models.items()}


PRESET = Preset("any chat model (--model), prompts and judge; two LoRA adapters on one GPU", RECIPE, build_workbench)
