"""The example for AgileRL, which pins an older PettingZoo: `make test-interop` gives it an environment of its own."""

from __future__ import annotations

from tests.example import load
from tests.interop.returns import assert_learned


def test_agilerl_trains_both_agents() -> None:
    assert_learned(load("agilerl_ppo").main())
