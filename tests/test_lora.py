"""Adapters that PEFT wrote: those that are plain LoRA act as in PEFT, all others are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents import LanguageModelPolicy, lora_policies
from waltz_env.agents.lora import COVERED_SETTINGS
from waltz_env.errors import UsageError
from waltz_env.types import CONVERSATION, FEEDBACK

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
IDS = torch.arange(1, 25).unsqueeze(0)
MASK, POSITIONS = torch.ones_like(IDS), torch.arange(24).unsqueeze(0)


def tiny_gpt2() -> GPT2LMHeadModel:
    """A model whose linear layers store their weights transposed."""
    config = GPT2Config(
        vocab_size=len(tiny_tokenizer()),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval()


def write_adapter(folder: Path, model: PreTrainedModel, **settings: Any) -> None:
    """An adapter with random weights, written by PEFT itself."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
        for name, parameter in adapted.named_parameters():
            if ".lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        adapted.save_pretrained(str(folder))


def change_setting(folder: Path, name: str, value: object) -> None:
    """Rewrites one setting of an adapter."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))


def logits(policy: LanguageModelPolicy, *, reference: bool = False) -> Tensor:
    with torch.no_grad():
        return policy.logits(IDS, MASK, POSITIONS, 24, reference=reference)


def sampling_logits(policy: LanguageModelPolicy) -> Tensor:
    with torch.no_grad(), policy.sampling_model() as model:
        return torch.as_tensor(model(IDS, attention_mask=MASK, position_ids=POSITIONS).logits)


@pytest.mark.parametrize(
    ("make_model", "settings"),
    [
        (tiny_model, {}),
        (tiny_model, {"r": 3, "lora_alpha": 7}),
        (tiny_model, {"use_rslora": True}),
        (tiny_model, {"rank_pattern": {"q_proj": 12}, "alpha_pattern": {"v_proj": 40}}),
        (tiny_model, {"target_modules": ["up_proj", "down_proj"]}),
        (tiny_model, {"target_modules": r".*layers\.1\..*_proj"}),
        (tiny_model, {"target_modules": "all-linear", "exclude_modules": ["k_proj"]}),
        (tiny_model, {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}),
        (tiny_model, {"lora_dropout": 0.5}),
        (tiny_model, {"init_lora_weights": False}),
        (tiny_model, {"init_lora_weights": "gaussian"}),
        (tiny_model, {"init_lora_weights": "orthogonal"}),
        pytest.param(
            tiny_gpt2,
            {"fan_in_fan_out": True, "target_modules": ["c_attn", "c_fc"]},
            marks=pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),
        ),
    ],
)
def test_plain_lora_of_every_kind_acts_as_in_peft(
    make_model: Callable[[], PreTrainedModel], settings: dict[str, Any], tmp_path: Path
) -> None:
    write_adapter(tmp_path, make_model(), **settings)
    reloaded = PeftModel.from_pretrained(make_model(), str(tmp_path))
    with torch.no_grad():
        expected = reloaded(input_ids=IDS, attention_mask=MASK, position_ids=POSITIONS).logits
        base = make_model()(IDS, attention_mask=MASK, position_ids=POSITIONS).logits
    assert (expected - base).abs().max() > 0.1
    policies = lora_policies(make_model(), tiny_tokenizer(), adapters={FEEDBACK: tmp_path})
    torch.testing.assert_close(logits(policies[FEEDBACK]), expected)
    torch.testing.assert_close(logits(policies[FEEDBACK], reference=True), expected)
    torch.testing.assert_close(sampling_logits(policies[FEEDBACK]), expected, atol=1e-4, rtol=0)
    assert torch.equal(logits(policies[CONVERSATION]), base)


@pytest.mark.filterwarnings("ignore")  # PEFT warns about some of these
@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "mica"},
        {"use_dora": True},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]},
        {"target_parameters": ["mlp.up_proj.weight"]},
        {"alora_invocation_tokens": [5, 6]},
    ],
)
def test_an_adapter_that_is_more_than_plain_lora_is_refused_and_the_base_stays_as_it_was(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    write_adapter(tmp_path, tiny_model(), **settings)
    model = tiny_model()
    with pytest.raises(UsageError, match=rf"more than plain LoRA .*{list(settings)[-1]}="):
        lora_policies(model, tiny_tokenizer(), adapters={FEEDBACK: tmp_path})
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny_model().parameters(), strict=True))


@pytest.mark.parametrize(
    "name", sorted({field.name for field in fields(LoraConfig)} - COVERED_SETTINGS - {"runtime_config"})
)
def test_every_other_setting_of_peft_is_refused_once_it_is_on(name: str, tmp_path: Path) -> None:
    write_adapter(tmp_path, tiny_model())
    change_setting(tmp_path, name, {"some": "setting"})
    with pytest.raises(UsageError, match=f"more than plain LoRA .{name}="):
        lora_policies(tiny_model(), tiny_tokenizer(), adapters={FEEDBACK: tmp_path})


@pytest.mark.parametrize(("name", "value"), [("use_new_lora", True), ("peft_type", "LOHA")])
def test_settings_that_this_peft_does_not_know_and_other_methods_are_refused(
    name: str, value: object, tmp_path: Path
) -> None:
    write_adapter(tmp_path, tiny_model())
    change_setting(tmp_path, name, value)
    with pytest.raises(UsageError, match=f"{name}={value!r}"):
        lora_policies(tiny_model(), tiny_tokenizer(), adapters={FEEDBACK: tmp_path})


def test_an_incomplete_folder_is_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path, tiny_model())
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UsageError, match="cannot be read"):
        lora_policies(tiny_model(), tiny_tokenizer(), adapters={FEEDBACK: tmp_path})
    weights.unlink()
    with pytest.raises(UsageError, match=r"holds no adapter_model\.safetensors"):
        lora_policies(tiny_model(), tiny_tokenizer(), adapters={FEEDBACK: tmp_path})
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(UsageError, match="is not JSON"):
        lora_policies(tiny_model(), tiny_tokenizer(), adapters={FEEDBACK: tmp_path})


def test_the_rank_of_a_policy_is_its_highest(tmp_path: Path) -> None:
    write_adapter(tmp_path, tiny_model(), r=4, rank_pattern={"q_proj": 12})
    policies = lora_policies(tiny_model(), tiny_tokenizer(), adapters={FEEDBACK: tmp_path})
    assert (policies[CONVERSATION].rank, policies[FEEDBACK].rank) == (16, 12)
