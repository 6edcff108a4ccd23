"""Pairs of models by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator

from waltz_env.agents import load_model, load_smollm2
from waltz_env.errors import unknown_name
from waltz_env.presets.pair import lora_pair
from waltz_env.presets.run import CONFIG, is_run, load_run
from waltz_env.protocols import Agent
from waltz_env.types import AgentID

SCRIPTED, SMOLLM2 = "scripted", "smollm2"


def load_pair(name: str, *, seed: int, max_new_tokens: int) -> tuple[Mapping[AgentID, Agent], int]:
    """The pair of a run, or one model in both roles; and the rounds that it was trained for.

    Args:
        name: smollm2, the folder of a run, or the folder or hub name of a Hugging Face chat model.
        seed: of sampling, where the name is no run.
        max_new_tokens: of one turn, where the name is no run.

    Raises:
        UsageError: nothing has that name; the nearest one is suggested.
        CheckpointError: the run has no checkpoint.
    """
    folder = Path(name)
    if is_run(folder):
        recipe, bench = load_run(folder, Accelerator())
        return bench.agents, recipe.rounds
    if name == SMOLLM2:
        model, tokenizer = load_smollm2()
    elif folder.exists() or name.count("/") == 1:
        model, tokenizer = load_model(name)
    else:
        runs = [str(each.parent) for each in Path("runs").glob(f"*/{CONFIG}")]
        raise unknown_name("agents", name, [SCRIPTED, SMOLLM2, *runs])
    return lora_pair(model, tokenizer, seed=seed, max_new_tokens=max_new_tokens)[1], 1
