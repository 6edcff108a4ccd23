"""A pair on a base of 8 or 4 bits (bitsandbytes) on the CPU, from the dry run to the evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.tiny import save_tiny_model
from waltz_env.agents import load_model, lora_policies
from waltz_env.agents.models import Quantize
from waltz_env.cli import main, parse
from waltz_env.experiments import execute
from waltz_env.run_folder import RunFolder
from waltz_env.types import AGENTS, CONVERSATION

BITS = pytest.mark.parametrize("bits", ["8bit", "4bit"])
SMALL = ("--system-prompts", "short", "--max-new-tokens", "8", "--adapter-rank", "4")
STEPS = ("--stage-1.steps", "1", "--stage-2.steps", "1", "--loop.games", "4", "--learner.min-reward-std", "0")


@BITS
def test_a_pair_on_a_quantized_base_is_tried_trained_continued_and_evaluated(
    bits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(save_tiny_model("qwen", tmp_path / "model"))
    given = (
        "--model",
        model,
        "--prompts",
        "builtin:train:40",
        "--test",
        "builtin:test:4",
        "--quantize",
        bits,
        "--judge",
        "rules",
    )
    arguments = ["train", *given, *SMALL, *STEPS]
    assert main([*arguments, "--dry-run"]) == 0
    told = capsys.readouterr().out
    # A head that is tied to the embeddings, norms and biases keep their dtype.
    assert "35,424 parameters in float32, " in told
    assert "uint8" in told or "int8" in told
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    recipe = parse(arguments).recipe  # type: ignore[attr-defined]
    assert execute(recipe, tmp_path / "stopped", should_stop=lambda: True) is None
    assert main(["train", "--resume", str(tmp_path / "stopped")]) == 0
    whole, stopped = (RunFolder(tmp_path / name) for name in ("whole", "stopped"))
    first, _ = whole.read_metrics()
    assert first["feedback_0/kl"] == pytest.approx(0, abs=1e-6)
    for agent in AGENTS:
        one, other = (folder.path / "weights" / agent / "adapter_model.safetensors" for folder in (whole, stopped))
        assert one.read_bytes() == other.read_bytes()
    assert main(["evaluate", str(tmp_path / "whole"), "--no-untrained", "--out", str(tmp_path / "again")]) == 0
    results = json.loads((tmp_path / "again" / "results.json").read_text())
    assert list(results["sets"]) == ["builtin-test"]


@BITS
def test_gradients_are_right_after_a_pass_without_them(bits: Quantize, tmp_path: Path) -> None:
    """As after sampling. For passes without gradients, bitsandbytes may rearrange weights of 4 bits on a CPU."""
    folder = save_tiny_model("qwen", tmp_path / "model")
    ids = torch.arange(10).unsqueeze(0)
    inputs = (ids, torch.ones_like(ids), ids)
    made = []
    for sampled_before in (False, True):
        policy = lora_policies(*load_model(folder, device_map="cpu", quantize=bits), rank=4)[CONVERSATION]
        if sampled_before:
            with torch.no_grad():
                policy.logits(*inputs, keep=10)
        policy.logits(*inputs, keep=10).logsumexp(-1).sum().backward()
        made.append([parameter.grad for parameter in policy.parameters()])
    before, after = made
    for one, other in zip(before, after, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
    assert any(gradient.abs().max() > 0.01 for gradient in after if gradient is not None)
