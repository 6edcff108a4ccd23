"""Algorithms by name: included, from installed packages, or at a dotted path. Their settings by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar

from waltz_env.algorithms.grpo import GRPOConfig
from waltz_env.algorithms.mappo import MAPPO
from waltz_env.algorithms.ppo import PPOConfig
from waltz_env.algorithms.protocols import LearnerConfig
from waltz_env.algorithms.reinforce_pp import ReinforcePPConfig
from waltz_env.algorithms.rloo import RLOOConfig
from waltz_env.algorithms.role_baseline import RoleBaselineConfig
from waltz_env.errors import unknown_name
from waltz_env.resolve import resolve

Config = TypeVar("Config", bound=LearnerConfig)

ENTRY_POINTS = "waltz_env.algorithms"
"""The group of entry points that other packages register their algorithms in."""

ALGORITHMS: Mapping[str, LearnerConfig] = MappingProxyType(
    {
        "reinforce++": ReinforcePPConfig(),
        "reinforce++-baseline": ReinforcePPConfig(baseline="group", kl_in="loss"),
        "grpo": GRPOConfig(),
        "dr-grpo": GRPOConfig(scale="none", aggregation="sum"),
        "rloo": RLOOConfig(),
        "ppo": PPOConfig(),
        "mappo": MAPPO,
        "role-baseline": RoleBaselineConfig(),
    }
)
"""The included algorithms with their default settings. All have a field ``surrogate`` of ``SurrogateConfig``."""

_SHARED = "surrogate"


def algorithm(name: str, **settings: Any) -> LearnerConfig:
    """The settings of the algorithm ``name``, to build learners from.

    >>> algorithm("grpo", scale="none", learning_rate=1e-4).surrogate.learning_rate
    0.0001

    Args:
        name: name of an included algorithm or of an entry point in the group ``waltz_env.algorithms``, or a dotted
            path ``package.module:NAME``. A path or an entry point leads to settings, which are used as they are, or to
            a callable without arguments that returns them, such as their class.
        **settings: settings to change, by their own names: the algorithm's, or those of its ``surrogate``.

    Raises:
        UsageError: nothing has that name, the name leads to something that is not an algorithm's settings, the
            algorithm does not have such a setting, or a setting is out of range.
    """
    config = resolve(
        "algorithm",
        name,
        known=ALGORITHMS,
        expected=LearnerConfig,  # type: ignore[type-abstract]  # a protocol stands for the objects that satisfy it
        entry_points=ENTRY_POINTS,
    )
    return with_settings(config, **settings)


def settings_of(config: LearnerConfig) -> dict[str, Any]:
    """An algorithm's settings by name: its own, and those of its ``surrogate``. Empty unless ``config`` is a dataclass.

    >>> settings_of(ALGORITHMS["dr-grpo"])["scale"]
    'none'
    """
    own = _fields(config)
    return _fields(own.pop(_SHARED, None)) | own


def with_settings(config: Config, **settings: Any) -> Config:
    """A copy of ``config`` with other ``settings``, its own or those of its ``surrogate``.

    Raises:
        UsageError: the algorithm does not have such a setting, or a setting is out of range.
    """
    if not settings:
        return config
    own, shared = _fields(config), _fields(_fields(config).get(_SHARED))
    for name in settings:
        if name not in own and name not in shared:
            raise unknown_name(f"setting of {type(config).__name__}", name, settings_of(config))
    changes = {name: value for name, value in settings.items() if name in own}
    if inner := {name: value for name, value in settings.items() if name not in own}:
        changes[_SHARED] = replace(changes.get(_SHARED, own[_SHARED]), **inner)
    return replace(config, **changes)  # type: ignore[type-var]  # it has fields, so it is a dataclass


def _fields(config: object) -> dict[str, Any]:
    if not is_dataclass(config) or isinstance(config, type):
        return {}
    return {field.name: getattr(config, field.name) for field in fields(config) if field.init}
