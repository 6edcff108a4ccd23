"""Two real vLLM servers on loopback that take adapters over HTTP; one is killed while it is at work."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tiny import tiny_tokenizer
from tests.vllm_engine.conftest import TEMPLATES, serving
from tests.waiting import wait_until
from waltz_env import CONVERSATION, FEEDBACK, Kind, Prompt, PromptSet
from waltz_env.agents import LanguageModelPolicy, VLLMAgent, VLLMServers, lora_policies
from waltz_env.algorithms import LoopConfig, Stage, StepReport, algorithm, train
from waltz_env.judges import RefusalJudge
from waltz_env.rewards import SETUP_B
from waltz_env.run_folder import RunFolder
from waltz_env.types import AgentID

TEMPERATURE = 0.8
CONTEXT = 2048
PROMPTS = [Prompt(f"Tell me about {thing}.", Kind.BENIGN, id=thing) for thing in ("rain", "bread", "trains", "bees")]
Running = list[tuple[str, subprocess.Popen[bytes]]]


@pytest.fixture(scope="module")
def policies() -> dict[AgentID, LanguageModelPolicy]:
    """Adapters on a random model that is as small as vLLM's kernels allow."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    return lora_policies(LlamaForCausalLM(config), tokenizer, rank=8, temperature=TEMPERATURE)


@pytest.fixture(scope="module")
def running(
    policies: dict[AgentID, LanguageModelPolicy], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("served")
    policies[CONVERSATION].save_merged(folder / "model", adapter=False)
    options = ["--enable-lora", "--max-loras", "2", "--max-lora-rank", "8"]
    options += ["--logprobs-mode", "processed_logprobs"]
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                serving(
                    folder / "model",
                    *options,
                    context=CONTEXT,
                    log=folder / f"log-{number}",
                    VLLM_ALLOW_RUNTIME_LORA_UPDATING="True",
                )
            )
            for number in range(2)
        ]


def busy(url: str) -> bool:
    """Whether the server is generating."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    return any(line.startswith("vllm:num_requests_running") and float(line.split()[-1]) > 0 for line in lines)


def test_training_goes_on_when_a_server_is_killed_in_the_second_step(
    policies: dict[AgentID, LanguageModelPolicy], running: Running, tmp_path: Path
) -> None:
    engine = VLLMServers(list(policies.values()), [url for url, _ in running], dtype=torch.float32, patience=20.0)
    agents = {
        name: VLLMAgent(engine, policy, template=TEMPLATES[name], max_new_tokens=24)
        for name, policy in policies.items()
    }
    learner = algorithm("reinforce++", learning_rate=1e-2, min_reward_std=0.0, old_logprobs="trainer")
    used: list[list[str]] = []
    url, process = running[0]

    def kill_at_work() -> None:
        wait_until(lambda: busy(url), every=0.02, seconds=300)
        os.killpg(process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_at_work)

    def begin_to_kill(report: StepReport) -> None:
        used.append(engine.in_rotation)
        if report.step == 1:
            killer.start()

    stage = Stage("both", 2, {CONVERSATION: learner, FEEDBACK: learner}, SETUP_B)
    assert train(
        agents,
        [stage],
        judge=RefusalJudge(),
        prompts=PromptSet(PROMPTS),
        folder=RunFolder(tmp_path),
        config=LoopConfig(games=8),
        progress=begin_to_kill,
    )
    killer.join()
    both = [url for url, _ in running]
    assert used == [both, both, both[1:]]  # at the start, after the first step, and after the second
    for line in RunFolder(tmp_path).read_metrics():
        for name in policies:
            assert line[f"{name}/staleness"] == 0
            assert float(line[f"{name}/sampler_gap"]) < 1e-3  # nats: ids and log-probabilities are the policy's own
    assert engine.report is not None
    assert engine.report.arrived == pytest.approx(1, abs=0.05)
    assert engine.syncs >= 2 * 2 + 2  # two roles on two servers, then two roles on one
    engine.close()
