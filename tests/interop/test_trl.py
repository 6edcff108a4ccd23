"""TRL's trainers on the laboratory model as `waltz train` makes it: minutes, so apart from the default suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from tests.example import load
from tests.games import REFUSING, SAFE, UNSAFE, trajectory
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.export.preferences import preference_rows, supervised_rows, write_rows


@pytest.mark.parametrize("trainer", ["grpo", "rloo"])
def test_trl_trains_both_roles_for_held_out_prompts(trainer: str, tmp_path: Path) -> None:
    shown = load("trl_grpo").main(trainer=trainer, out=tmp_path)
    gained = {name: after - before for name, (before, after) in shown.items()}
    assert gained["label_accuracy"] > 0.2
    assert gained["r_c"] > 0.15
    assert gained["asr"] < -0.1
    assert gained["orr"] < -0.1


@pytest.mark.parametrize(
    ("rows", "trainer", "config"),
    [(preference_rows, DPOTrainer, DPOConfig), (supervised_rows, SFTTrainer, SFTConfig)],
    ids=["preferences", "sft"],
)
def test_a_step_of_trl_on_exported_games(rows: Any, trainer: Any, config: Any, tmp_path: Path) -> None:
    games = [trajectory([UNSAFE, SAFE], [UNSAFE]), trajectory([SAFE, REFUSING], [UNSAFE])]
    games += [trajectory([REFUSING, SAFE], [REFUSING])]
    write_rows(tmp_path / "rows.jsonl", rows(games))
    data = load_dataset(
        "json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    tiny_model().save_pretrained(tmp_path / "model")  # DPO loads its reference from where the model comes from
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    settings = config(
        output_dir=str(tmp_path / "out"), max_steps=1, learning_rate=1e-2, report_to="none", use_cpu=True, bf16=False
    )
    done = trainer(model, args=settings, train_dataset=data, processing_class=tiny_tokenizer())
    assert torch.tensor(done.train().training_loss).isfinite()
    assert any(not torch.equal(before[name], weight) for name, weight in done.model.named_parameters())
