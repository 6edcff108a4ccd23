"""`--engine vllm`: vLLM in the process of a command."""

from __future__ import annotations

import pytest

from waltz_env.cli import main


def test_a_game_is_played_with_vllm(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "smollm2", "--prompt", "Name a color.", "--max-new-tokens", "8", "--engine", "vllm"]) == 0
    assert "Name a color." in capsys.readouterr().out
