"""What a run leaves is used with plain PEFT and transformers, by another process in another folder."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from tests.tiny import tiny_model, tiny_tokenizer
from tests.tiny_preset import RECIPE
from waltz_env.agents import TransformersAgent, full_policy
from waltz_env.experiments.run import execute
from waltz_env.experiments.saved_run import load_run
from waltz_env.files import atomic_folder
from waltz_env.presets import PRESETS, Preset, Recipe, Workbench, lora_pair
from waltz_env.presets.nano.templates import conversation_messages, feedback_messages
from waltz_env.prompts import PromptSet
from waltz_env.run_folder import RunFolder
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK, AgentID, Kind, Prompt

TEMPLATES = {CONVERSATION: conversation_messages, FEEDBACK: feedback_messages}
PROMPTS = PromptSet([Prompt(f"prompt {kind}", kind, id=str(kind)) for kind in Kind])
IDS = [[5, 6, 7, 8, 9]]

# Nothing of waltz_env: this is what somebody else's program does.
LOAD = """
import json, sys
import torch
from transformers import AutoTokenizer
folder, adapter = sys.argv[1], sys.argv[2] == "adapter"
if adapter:
    from peft import AutoPeftModelForCausalLM as Model
else:
    from transformers import AutoModelForCausalLM as Model
model = Model.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
with torch.no_grad():
    logits = model(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits[0, -1]
assert "waltz_env" not in sys.modules
print(json.dumps([text, logits.tolist()]))
"""


def on_adapters(recipe: Recipe, folder: RunFolder, accelerator: Accelerator) -> Workbench:
    """Two adapters on a base that the run folder keeps, as the included presets do."""
    if not folder.base.exists():
        with atomic_folder(folder.base) as temporary:
            tiny_model().save_pretrained(temporary)
            tiny_tokenizer().save_pretrained(temporary)
    model = LlamaForCausalLM.from_pretrained(folder.base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder.base)
    agents = lora_pair(model.eval(), tokenizer, seed=recipe.seed, rank=4, templates=TEMPLATES, max_new_tokens=5)
    return Workbench(agents, PROMPTS, PROMPTS, {"mine": PROMPTS})


def on_whole_models(recipe: Recipe, folder: RunFolder, accelerator: Accelerator) -> Workbench:
    agents: dict[AgentID, TransformersAgent] = {
        agent: TransformersAgent(
            full_policy(tiny_model(i), tiny_tokenizer()), TEMPLATES[agent], max_new_tokens=5, batch_size=8
        )
        for i, agent in enumerate(AGENTS)
    }
    return Workbench(agents, PROMPTS, PROMPTS, {"mine": PROMPTS})


BUILDS = {"adapter": on_adapters, "whole": on_whole_models}


@pytest.fixture(params=BUILDS)
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A trained run of each kind, begun with a relative path in the folder ``work`` and a group-friendly umask."""
    monkeypatch.setitem(PRESETS, "portable", Preset("for tests", RECIPE, BUILDS[request.param]))
    (tmp_path / "work").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    before = os.umask(0o027)
    try:
        assert execute(replace(RECIPE, preset="portable"), Path("runs/mine")) is not None
    finally:
        os.umask(before)
    return request.param, tmp_path


def loaded_by_others(folder: Path, kind: str, cwd: Path) -> tuple[str, torch.Tensor]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), kind],
        cwd=cwd,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text, logits = json.loads(done.stdout.splitlines()[-1])
    return text, torch.tensor(logits)


def ours(folder: Path, agent: AgentID) -> torch.Tensor:
    _, bench = load_run(folder, Accelerator())
    with torch.no_grad(), bench.agents[agent].policy.sampling_model() as model:  # type: ignore[attr-defined]
        return model(input_ids=torch.tensor(IDS)).logits[0, -1].clone()


def test_weights_load_in_another_folder_after_they_were_moved(run: tuple[str, Path]) -> None:
    kind, place = run
    expected = {agent: ours(Path("runs/mine"), agent) for agent in AGENTS}
    shutil.move(place / "work" / "runs" / "mine" / "weights", place / "elsewhere" / "weights")
    chat = [{"role": "user", "content": "Hi"}]
    for agent in AGENTS:
        text, logits = loaded_by_others(place / "elsewhere" / "weights" / agent, kind, place / "elsewhere")
        torch.testing.assert_close(logits, expected[agent])
        assert text == tiny_tokenizer().apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert not torch.equal(expected[CONVERSATION], expected[FEEDBACK])


def test_everything_in_a_run_folder_can_be_read_by_the_group(run: tuple[str, Path]) -> None:
    files = [path for path in Path("runs/mine").rglob("*") if path.is_file()]
    assert len(files) > 10
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in files} == {oct(0o640)}
    folders = [path for path in Path("runs/mine").rglob("*") if path.is_dir()]
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in folders} == {oct(0o750)}


def test_a_moved_run_is_read_by_waltz_env_itself(run: tuple[str, Path]) -> None:
    _, place = run
    expected = ours(Path("runs/mine"), CONVERSATION)
    shutil.move(place / "work" / "runs" / "mine", place / "elsewhere" / "mine")
    assert torch.equal(ours(place / "elsewhere" / "mine", CONVERSATION), expected)


def test_an_exported_model_loads_anywhere(run: tuple[str, Path]) -> None:
    _, place = run
    _, bench = load_run(Path("runs/mine"), Accelerator())
    expected = ours(Path("runs/mine"), FEEDBACK)
    bench.agents[FEEDBACK].policy.save_merged("exported")  # type: ignore[attr-defined]
    shutil.move(place / "work" / "exported", place / "elsewhere" / "exported")
    shutil.rmtree(place / "work" / "runs")
    _, logits = loaded_by_others(place / "elsewhere" / "exported", "whole", place)
    torch.testing.assert_close(logits, expected)
    assert isinstance(AutoModelForCausalLM.from_pretrained(place / "elsewhere" / "exported"), LlamaForCausalLM)
