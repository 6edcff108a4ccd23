"""A real vLLM engine for the whole suite; `make test-vllm` runs it in a virtual environment of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from waltz_env import CONVERSATION, FEEDBACK
from waltz_env.agents import Policy, VLLMAgent, VLLMEngine, load_smollm2, lora_policies
from waltz_env.presets.nano.templates import conversation_messages, feedback_messages
from waltz_env.types import AgentID

TEMPLATES = {CONVERSATION: conversation_messages, FEEDBACK: feedback_messages}  # short ones


@dataclass(frozen=True)
class Pair:
    policies: dict[AgentID, Policy]
    engine: VLLMEngine
    agents: dict[AgentID, VLLMAgent]


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """SmolLM2 in float32, where even a small change of the weights shows above rounding."""
    policies = lora_policies(*load_smollm2(), rank=8)
    engine = VLLMEngine(list(policies.values()), dtype=torch.float32, max_model_len=1024, kv_cache_gib=0.5)
    agents = {name: VLLMAgent(engine, policies[name], TEMPLATES[name], max_new_tokens=12) for name in policies}
    yield Pair(policies, engine, agents)
    engine.close()
