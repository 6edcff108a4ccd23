"""Pairs of agents by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from waltz_env.agents.engines import TRANSFORMERS, check_engine, on_engine, trains_elsewhere
from waltz_env.errors import UsageError, unknown_name
from waltz_env.protocols import Agent
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder
from waltz_env.types import AgentID

SCRIPTED, SMOLLM2 = "scripted", "smollm2"
LABORATORY = "nano"
LABORATORY_NOTE = (
    "The laboratory model speaks its own small language: ordinary English and system messages get nonsense."
)

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def load_pair(
    name: str, *, seed: int, max_new_tokens: int, engine: str = TRANSFORMERS
) -> tuple[Mapping[AgentID, Agent], Rules]:
    """The pair of a run, or one model in both roles, and the rules that the pair was trained with. It is frozen.

    Args:
        name: smollm2, the folder of a run, or the folder or hub name of a Hugging Face chat model.
        seed: seed of sampling, if the name is not a run.
        max_new_tokens: token limit of one turn, if the name is not a run.
        engine: what generates, see ``agents.engines``.

    Raises:
        UsageError: nothing has that name; the nearest one is suggested.
        CheckpointError: the run has no checkpoint.
    """
    folder = RunFolder(Path(name))
    is_model = _is_model(name)
    check_engine(engine)
    # What follows needs torch, which a mistyped name should not wait for.
    from accelerate import Accelerator

    from waltz_env.agents import TransformersAgent, load_model, load_smollm2
    from waltz_env.experiments.saved_run import load_run
    from waltz_env.presets.pair import lora_pair

    if is_model and trains_elsewhere(engine):
        raise UsageError(f"The engine {engine} generates for runs that it trained; {name} is a model.")
    if not is_model:
        recipe, bench = load_run(folder, Accelerator(), engine=engine)
        agents, rules = bench.agents, recipe.rules
    else:
        model, tokenizer = load_smollm2() if name == SMOLLM2 else load_model(name)
        made = lora_pair(model, tokenizer, seed=seed, max_new_tokens=max_new_tokens)
        agents, rules = on_engine(made, engine), Rules()
    for agent in agents.values():
        if isinstance(agent, TransformersAgent):
            agent.freeze()
    return agents, rules


def laboratory_note(folder: RunFolder) -> str | None:
    """What whoever reads a run's answers to ordinary English must know; None if its model knows more than the game."""
    is_laboratory = folder.has_config() and folder.read_config().get("preset") == LABORATORY
    return LABORATORY_NOTE if is_laboratory else None


def _is_model(name: str) -> bool:
    """Whether the name is that of a model; otherwise it is that of a run.

    Raises:
        UsageError: it is neither. Only a name that cannot be meant as a path here is looked up on the hub.
    """
    folder = RunFolder(Path(name))
    if folder.has_config():
        return False
    if name == SMOLLM2:
        return True
    if folder.path.is_dir():
        if folder.config.exists():
            return True
        raise UsageError(f"{name} holds neither a run nor a model: it has no {folder.config.name}.")
    if folder.path.exists():
        raise UsageError(f"{name} is a file; expected the folder of a run or of a model.")
    above = Path(name).parent
    if HUB_NAME.fullmatch(name) and not above.is_dir() and str(above) != "runs":
        return True
    places = {Path("runs"), *([above] if above.is_dir() and above != Path() else [])}
    runs = sorted(str(path.parent) for place in places for path in place.glob(f"*/{folder.config.name}"))
    raise unknown_name("agents", name, [SCRIPTED, SMOLLM2, *runs])
