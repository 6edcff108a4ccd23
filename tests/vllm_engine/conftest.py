"""Real vLLM engines and a real vLLM server; `make test-vllm` runs the suite in a virtual environment of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

from tests.waiting import wait_until
from waltz_env import CONVERSATION, FEEDBACK
from waltz_env.agents import LanguageModelPolicy, VLLMAgent, VLLMEngine, load_smollm2, lora_policies
from waltz_env.presets.nano.templates import conversation_messages, feedback_messages
from waltz_env.types import AgentID

TEMPLATES = {CONVERSATION: conversation_messages, FEEDBACK: feedback_messages}  # short ones


@dataclass(frozen=True)
class Pair:
    policies: dict[AgentID, LanguageModelPolicy]
    engine: VLLMEngine
    agents: dict[AgentID, VLLMAgent]


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """SmolLM2 in float32, where even a small change of the weights shows above rounding."""
    policies = lora_policies(*load_smollm2(), rank=8)
    engine = VLLMEngine(list(policies.values()), dtype=torch.float32, max_model_len=512, kv_cache_gib=0.5)
    agents = {name: VLLMAgent(engine, policies[name], template=TEMPLATES[name], max_new_tokens=12) for name in policies}
    yield Pair(policies, engine, agents)
    engine.close()


@pytest.fixture(scope="session")
def side_by_side(pair: Pair) -> Iterator[Pair]:
    """An engine that takes adapters alone, by LoRA requests: the way of a GPU, here on whatever there is."""
    engine = VLLMEngine(
        list(pair.policies.values()), sync="adapter", dtype=torch.float32, max_model_len=512, kv_cache_gib=0.5
    )
    agents = {
        name: VLLMAgent(engine, policy, template=TEMPLATES[name], max_new_tokens=4)
        for name, policy in pair.policies.items()
    }
    yield Pair(pair.policies, engine, agents)
    engine.close()


SERVED = "smollm2"
CONTEXT = 4096


@pytest.fixture(scope="session")
def server(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of vLLM's own OpenAI server on loopback, with the base model of ``pair`` in float32."""
    folder: Path = tmp_path_factory.mktemp("served")
    pair.policies[CONVERSATION].save_merged(folder / "model", adapter=False)
    with serving(folder / "model", context=CONTEXT, log=folder / "log") as (url, _):
        yield f"{url}/v1"


@contextmanager
def serving(
    model: Path, *options: str, context: int, log: Path, **environment: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a vLLM server on loopback that serves a model in float32, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", SERVED, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--generation-config", "vllm"]
    command += ["--max-model-len", str(context)]
    # vLLM 0.32 on a CPU cannot read a prompt in parts where requests have seeds.
    command += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(context), *options]
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", **environment},
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/health") or process.poll() is not None, every=1, seconds=600)
        assert process.poll() is None, log.read_text()[-4000:]
        yield url, process
    finally:
        process.terminate()
        process.wait(60)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
