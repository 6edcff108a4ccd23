"""The included algorithms with settings for policies of a few tokens."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from waltz_env.algorithms.critic import CriticConfig
from waltz_env.algorithms.registry import ALGORITHMS

_CRITIC = CriticConfig(learning_rate=0.03, epochs=5)


def toy_config(name: str, **changes: Any) -> Any:
    """The settings of the included algorithm ``name``, with a learning rate for a table of logits."""
    config: Any = ALGORITHMS[name]
    if "critic" in {each.name for each in fields(config)}:
        changes = {"critic": _CRITIC} | changes
    return replace(config, **{"learning_rate": 0.1} | changes)
