"""TRL's trainers on the laboratory model as `waltz train` makes it: minutes, so apart from the default suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.example import load


@pytest.mark.parametrize("trainer", ["grpo", "rloo"])
def test_trl_trains_both_roles_for_held_out_prompts(trainer: str, tmp_path: Path) -> None:
    shown = load("trl_grpo").main(trainer=trainer, out=tmp_path)
    gained = {name: after - before for name, (before, after) in shown.items()}
    assert gained["label_accuracy"] > 0.2
    assert gained["r_c"] > 0.15
    assert gained["asr"] < -0.1
    assert gained["orr"] < -0.1
