"""The loops of others learn: an example in plain PyTorch, and TRL's trainers, on a model that is made in seconds."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.example import load
from waltz_env.presets import nano
from waltz_env.presets.nano.examples import Mixture
from waltz_env.presets.nano.warm_start import NanoConfig, build

Built = tuple[LlamaForCausalLM, PreTrainedTokenizerFast]


@pytest.fixture(scope="module")
def half_taught() -> Built:
    """A small laboratory model that breaks half of its JSON and knows little of the topics."""
    mixture = Mixture(draft=0.3, feedback=0.6)
    return build(
        0, NanoConfig(width=48, feed_forward=144, steps=200, batch_size=16, learning_rate=8e-3, mixture=mixture)
    )


@pytest.fixture(autouse=True)
def _nano_is_half_taught(monkeypatch: pytest.MonkeyPatch, half_taught: Built) -> None:
    monkeypatch.setattr(nano, "build", lambda seed: copy.deepcopy(half_taught))


def test_the_loop_in_plain_pytorch_learns_the_format() -> None:
    example = load("cleanrl_reinforce")
    args = example.Args(steps=20, feedback_alone=14, log_every=4, learning_rate=3e-3, label_weight=0.0)
    first, *_, last = example.main(args)
    assert last["format_rate"] > first["format_rate"] + 0.1


# TRL 1.16 sets the first by itself; the second is a machine without a GPU.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning", "ignore:.*pin_memory.*:UserWarning")
def test_trl_trains_both_roles_and_both_adapters_come_back_as_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest puts tests/ on the path, and TRL takes tests/vllm for vLLM.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if Path(entry) != Path(__file__).parent])
    shown = load("trl_grpo").main(steps=(24, 12), out=tmp_path)
    gained = {name: after - before for name, (before, after) in shown.items()}
    assert gained["format_rate"] > 0.08
    assert gained["r_c"] > 0.04
