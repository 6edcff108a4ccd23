"""Runs that have been trained to the end in seconds, and other people's program that loads what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from tests.tiny import tiny_model, tiny_tokenizer
from tests.tiny_preset import RECIPE
from waltz_env.agents import TransformersAgent, full_policy, load_model
from waltz_env.experiments.run import execute
from waltz_env.experiments.saved_run import load_run
from waltz_env.files import atomic_folder
from waltz_env.presets import PRESETS, Preset, Recipe, Workbench, lora_pair, with_steps
from waltz_env.presets.nano import preset as nano
from waltz_env.presets.nano.templates import TEMPLATES
from waltz_env.presets.nano.warm_start import NanoConfig
from waltz_env.prompts import PromptSet
from waltz_env.run_folder import RunFolder
from waltz_env.types import AGENTS, AgentID, Kind, Prompt

PROMPTS = PromptSet([Prompt(f"prompt {kind}", kind, id=str(kind), source="mine") for kind in Kind])
IDS = [[5, 6, 7, 8, 9]]

# Nothing of waltz_env: this is what somebody else's program does.
LOAD = """
import json, sys
import torch
from transformers import AutoTokenizer
found = {}
for kind, folder in json.loads(sys.argv[1]):
    if kind == "adapter":
        from peft import AutoPeftModelForCausalLM as Model
    else:
        from transformers import AutoModelForCausalLM as Model
    model = Model.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    with torch.no_grad():
        found[folder] = [text, model(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits[0, -1].float().tolist()]
assert "waltz_env" not in sys.modules
print(json.dumps(found))
"""


def on_adapters(
    recipe: Recipe, folder: RunFolder, accelerator: Accelerator, *, dtype: torch.dtype = torch.float32
) -> Workbench:
    """Two adapters on a base that the run folder keeps, as the included presets do."""
    if not folder.base.exists():
        with atomic_folder(folder.base) as temporary:
            tiny_model().to(dtype=dtype).save_pretrained(temporary)  # type: ignore[call-arg]
            tiny_tokenizer().save_pretrained(temporary)
    model, tokenizer = load_model(folder.base, dtype=dtype)
    agents = lora_pair(
        model,
        tokenizer,
        seed=recipe.seed,
        rank=4,
        shared=recipe.shared_policy,
        templates=TEMPLATES,
        max_new_tokens=5,
    )
    return Workbench(agents, PROMPTS, PROMPTS, {"mine": PROMPTS})


def on_whole_models(recipe: Recipe, folder: RunFolder, accelerator: Accelerator) -> Workbench:
    agents: dict[AgentID, TransformersAgent] = {
        agent: TransformersAgent(
            full_policy(tiny_model(i), tiny_tokenizer()), TEMPLATES[agent], max_new_tokens=5, batch_size=8
        )
        for i, agent in enumerate(AGENTS)
    }
    return Workbench(agents, PROMPTS, PROMPTS, {"mine": PROMPTS})


def on_nano(recipe: Recipe, folder: RunFolder, accelerator: Accelerator) -> Workbench:
    """The nano preset after one step of its warm start."""
    bench = nano.build_workbench(recipe, folder, accelerator, warm_start=NanoConfig(steps=1))
    return replace(bench, tests={name: prompts[:2] for name, prompts in bench.tests.items()})


HAS_BASE = Preset("for tests", RECIPE, on_adapters, base="someone/tiny", license="apache-2.0")
PRESETS_FOR_TESTS: Mapping[str, Preset] = {
    "adapter": HAS_BASE,
    "bfloat16": replace(HAS_BASE, build=partial(on_adapters, dtype=torch.bfloat16)),
    "whole": Preset("for tests", RECIPE, on_whole_models),
    "nano": replace(
        nano.PRESET,
        recipe=replace(with_steps(nano.RECIPE, 1, 1), loop=replace(nano.RECIPE.loop, games=4), test_samples=1),
        build=on_nano,
    ),
}


@contextmanager
def presets_for_tests() -> Iterator[None]:
    """These presets are known by their names meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        for name, each in PRESETS_FOR_TESTS.items():
            patch.setitem(PRESETS, name, each)
        yield


def finish(name: str, folder: Path, **changes: object) -> Path:
    """A finished run of one of the presets above."""
    recipe = replace(PRESETS[name].recipe, preset=name, **changes)  # type: ignore[arg-type]
    assert execute(recipe, folder) is not None
    return folder


def loaded_by_others(folders: Mapping[Path, str], cwd: Path) -> dict[Path, tuple[str, torch.Tensor]]:
    """Each folder loaded as ``"adapter"`` or ``"whole"`` model by another process: a chat as text, and logits, (V,)."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps([[kind, str(folder)] for folder, kind in folders.items()])],
        cwd=cwd,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {folder: (found[str(folder)][0], torch.tensor(found[str(folder)][1])) for folder in folders}


def ours(folder: Path, agent: AgentID) -> torch.Tensor:
    """The logits of a run's agent in this package, (V,)."""
    _, bench = load_run(folder, Accelerator())
    with torch.no_grad(), bench.agents[agent].policy.sampling_model() as model:  # type: ignore[attr-defined]
        return model(input_ids=torch.tensor(IDS)).logits[0, -1].float().clone()
