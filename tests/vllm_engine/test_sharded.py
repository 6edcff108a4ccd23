"""Two processes with sharded policies and a vLLM engine each: all engines get the weights, whoever asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import LlamaConfig, LlamaForCausalLM

from tests.processes import run_together, torchrun
from tests.tiny import tiny_tokenizer
from waltz_env.agents import LanguageModelPolicy, VLLMEngine, full_policy, lora_policies
from waltz_env.agents.sampling import RowSampling
from waltz_env.lock_step import in_step
from waltz_env.run_folder import RunFolder

ROW = RowSampling(temperature=1.0, top_p=1.0, limit=4, seed=7)


def model() -> LlamaForCausalLM:
    """Small, with attention heads of a size that vLLM has kernels for."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).eval()


def whole_models() -> list[LanguageModelPolicy]:
    reference = model()
    return [full_policy(model(), tiny_tokenizer(), reference=reference) for _ in range(2)]


def two_adapters() -> list[LanguageModelPolicy]:
    return list(lora_policies(model(), tiny_tokenizer(), rank=8).values())


def synced(policies: list[LanguageModelPolicy], accelerator: Accelerator) -> list[Any]:
    """What each process asks of each policy, and how well engine and policy agreed after the sync."""
    for policy in policies:
        policy.shard()
    engine = VLLMEngine(policies, dtype=torch.float32, max_model_len=256, kv_cache_gib=0.05)
    seen = []
    for number, policy in enumerate(policies):
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.02 * (number + 1))
    with in_step():
        for turn in range(3):
            number = (turn + accelerator.process_index) % 2  # the processes never ask for the same policy
            prompts = [[10 + row, 20, 30] for row in range(1 + accelerator.process_index)]
            sampled = engine.generate(policies[number], prompts, sampling=[ROW] * len(prompts), stop_ids=[])
            assert engine.report is not None
            seen.append((number, sampled[0].token_ids, engine.report.gap_mean, engine.report.arrived))
    engine.close()
    return seen


def sync_whole_models(accelerator: Accelerator, folder: Path) -> list[Any]:
    return synced(whole_models(), accelerator)


def sync_two_adapters(accelerator: Accelerator, folder: Path) -> list[Any]:
    return synced(two_adapters(), accelerator)


@pytest.mark.parametrize("work", [sync_whole_models, sync_two_adapters])
def test_engines_of_sharded_policies_hold_their_weights(work: Any, tmp_path: Path) -> None:
    first, second = run_together(work, tmp_path, processes=2)
    assert [number for number, *_ in first] == [0, 1, 0]
    assert [number for number, *_ in second] == [1, 0, 1]
    for _, _, gap, arrived in [*first, *second]:
        assert gap < 1e-4
        assert arrived == pytest.approx(1, abs=0.01)
    texts = {number: tokens for number, tokens, *_ in first}
    assert all(texts[number] == tokens for number, tokens, *_ in second)


def test_a_run_samples_with_an_engine_in_each_process(tmp_path: Path) -> None:
    whole = model()
    whole.generation_config.eos_token_id = [tiny_tokenizer().eos_token_id, *range(0, 256, 6)]  # so that turns are short
    whole.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    words = ["train", "--model", str(tmp_path / "model"), "--all-weights", "--shard", "--engine", "vllm"]
    words += ["--judge", "refusals", "--prompts", "builtin:train:20", "--test", "builtin:test:3", "--loop.games", "3"]
    words += ["--stage-1.steps", "1", "--stage-2.steps", "1", "--max-new-tokens", "8", "--context", "4096"]
    words += ["--learner.min-reward-std", "0", "--learner.learning-rate", "1e-3"]  # it learns, whatever the rewards are
    run = RunFolder(tmp_path / "run")
    trained = torchrun(2, *words, "--batch-size", "4", "--out", str(run.path))
    assert trained.returncode == 0, trained.stderr
    assert "Traceback" not in trained.stderr
    for line in run.read_metrics():
        assert line["feedback_0/sampler_gap"] < 0.05  # some CPUs sample in bfloat16
    assert [line["stage"] for line in run.read_metrics()] == ["stage-1", "stage-2"]
