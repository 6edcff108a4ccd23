"""Every setting of every algorithm is checked when the settings are made."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from waltz_env.algorithms.critic import CriticConfig
from waltz_env.algorithms.grpo import GRPOConfig
from waltz_env.algorithms.ppo import PPOConfig
from waltz_env.algorithms.reinforce_pp import ReinforcePPConfig
from waltz_env.algorithms.rloo import RLOOConfig
from waltz_env.algorithms.role_baseline import RoleBaselineConfig
from waltz_env.algorithms.supervised import SupervisedConfig
from waltz_env.algorithms.surrogate import SurrogateConfig
from waltz_env.errors import UsageError, UsageTypeError

CONFIGS = (
    SurrogateConfig(),
    CriticConfig(),
    GRPOConfig(),
    RLOOConfig(),
    ReinforcePPConfig(),
    RoleBaselineConfig(),
    PPOConfig(),
    SupervisedConfig(),
)


def settings_of_a_type(kind: type) -> list[Any]:
    return [
        pytest.param(config, field.name, id=f"{type(config).__name__}.{field.name}")
        for config in CONFIGS
        for field in fields(config)
        if type(getattr(config, field.name)) is kind
    ]


@pytest.mark.parametrize(("config", "name"), settings_of_a_type(float))
def test_negative_numbers_and_nan_are_refused(config: Any, name: str) -> None:
    for wrong in (math.nan, -0.5):
        with pytest.raises(UsageError, match=name):
            replace(config, **{name: wrong})


@pytest.mark.parametrize(("config", "name"), settings_of_a_type(int))
def test_negative_counts_and_fractions_are_refused(config: Any, name: str) -> None:
    with pytest.raises(UsageError, match=name):
        replace(config, **{name: -1})
    with pytest.raises(UsageTypeError, match=name):
        replace(config, **{name: 1.5})


@pytest.mark.parametrize(("config", "name"), settings_of_a_type(str))
def test_choices_that_do_not_exist_are_refused(config: Any, name: str) -> None:
    with pytest.raises(UsageError, match=f"Unknown {name} 'nothing'"):
        replace(config, **{name: "nothing"})


def test_all_kinds_of_settings_are_covered() -> None:
    """What is neither a number, a count nor a choice: settings in settings, pairs, and a switch."""
    left = {
        (type(config).__name__, field.name)
        for config in CONFIGS
        for field in fields(config)
        if type(getattr(config, field.name)) not in (float, int, str) and not is_dataclass(getattr(config, field.name))
    }
    assert left == {("SurrogateConfig", "betas"), ("SupervisedConfig", "betas"), ("SupervisedConfig", "bf16")}


@pytest.mark.parametrize("betas", [(0.9, 1.0), (-0.1, 0.9), (0.9, math.nan), (0.9,)])
@pytest.mark.parametrize("config", [SurrogateConfig(), SupervisedConfig()])
def test_betas_are_two_shares_below_1(config: Any, betas: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="betas"):
        replace(config, betas=betas)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (SurrogateConfig(), {"clip": 0.0}),
        (SurrogateConfig(), {"epochs": 0}),
        (SurrogateConfig(), {"minibatches": 0}),
        (SurrogateConfig(), {"tokens_per_microbatch": 0}),
        (SurrogateConfig(), {"schedule": "linear"}),
        (SurrogateConfig(), {"sampler_correction": "truncated"}),
        (PPOConfig(), {"gae_lambda": 1.5}),
        (CriticConfig(), {"epochs": 0}),
        (CriticConfig(), {"hidden": 0}),
        (RoleBaselineConfig(), {"decay": 1.0}),
        (SupervisedConfig(), {"batch_size": 0}),
    ],
)
def test_settings_at_the_wrong_side_of_a_bound_or_without_what_they_need_are_refused(
    config: Any, changes: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        replace(config, **changes)


def test_no_clipping_of_gradients_and_no_cap_of_weights_are_infinite() -> None:
    config = SurrogateConfig(max_grad_norm=math.inf, sampler_cap=math.inf)
    assert config.max_grad_norm == math.inf
