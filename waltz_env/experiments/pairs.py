"""Pairs of agents by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator

from waltz_env.agents import load_model, load_smollm2
from waltz_env.errors import unknown_name
from waltz_env.experiments.saved_run import load_run
from waltz_env.presets.pair import lora_pair
from waltz_env.protocols import Agent
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder
from waltz_env.types import AgentID

SCRIPTED, SMOLLM2 = "scripted", "smollm2"


def load_pair(name: str, *, seed: int, max_new_tokens: int) -> tuple[Mapping[AgentID, Agent], Rules]:
    """The pair of a run, or one model in both roles, and the rules that the pair was trained with.

    Args:
        name: smollm2, the folder of a run, or the folder or hub name of a Hugging Face chat model.
        seed: seed of sampling, if the name is not a run.
        max_new_tokens: token limit of one turn, if the name is not a run.

    Raises:
        UsageError: nothing has that name; the nearest one is suggested.
        CheckpointError: the run has no checkpoint.
    """
    folder = RunFolder(Path(name))
    if folder.has_config():
        recipe, bench = load_run(folder, Accelerator())
        return bench.agents, recipe.rules
    if name == SMOLLM2:
        model, tokenizer = load_smollm2()
    elif folder.path.exists() or name.count("/") == 1:
        model, tokenizer = load_model(name)
    else:
        runs = [str(path.parent) for path in Path("runs").glob(f"*/{folder.config.name}")]
        raise unknown_name("agents", name, [SCRIPTED, SMOLLM2, *runs])
    return lora_pair(model, tokenizer, seed=seed, max_new_tokens=max_new_tokens), Rules()
