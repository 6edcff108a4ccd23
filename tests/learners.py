"""The included algorithms with settings for policies of a few tokens, and rows that such policies sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from waltz_env.algorithms.critic import CriticConfig
from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.protocols import Sample
from waltz_env.algorithms.registry import ALGORITHMS, algorithm, settings_of

_CRITIC = CriticConfig(learning_rate=0.03, epochs=5)


def toy_config(name: str, **changes: Any) -> Any:
    """The settings of the included algorithm ``name``, with a learning rate for a table of logits."""
    small: dict[str, Any] = {"learning_rate": 0.1}
    if "critic" in settings_of(ALGORITHMS[name]):
        small["critic"] = _CRITIC
    return algorithm(name, **small | changes)


def random_table(size: int, seed: int = 0) -> Tensor:
    """Logits (V, V) float32, standard normal."""
    return torch.randn(size, size, generator=torch.Generator().manual_seed(seed))


def row(policy: ToyPolicy, prompt: Sequence[int], tokens: Sequence[int], reward: float, group: str = "") -> Sample:
    """A training row that ``policy`` sampled just now."""
    return Sample(tuple(prompt), tuple(tokens), policy.logprobs(prompt, tokens), reward, group, policy.version)
