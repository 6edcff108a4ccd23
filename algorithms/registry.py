"""Algorithms by name: those that are included, those that other packages register, and any by its dotted path."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from waltz_env.algorithms.grpo import GRPOConfig
from waltz_env.algorithms.mappo import MAPPO
from waltz_env.algorithms.ppo import PPOConfig
from waltz_env.algorithms.protocols import LearnerConfig
from waltz_env.algorithms.reinforce_pp import ReinforcePPConfig
from waltz_env.algorithms.rloo import RLOOConfig
from waltz_env.algorithms.role_baseline import RoleBaselineConfig
from waltz_env.resolve import resolve

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
"""The included algorithms with their default settings. All take the settings of ``SurrogateConfig``."""

NEEDS_GROUPS = frozenset({"reinforce++-baseline", "grpo", "dr-grpo", "rloo"})
"""Included algorithms that learn nothing from a row alone in its group: give them several games a prompt."""


def algorithm(name: str) -> LearnerConfig:
    """The settings of the algorithm ``name``, to change with ``dataclasses.replace`` and to build learners from.

    >>> algorithm("grpo").scale
    'group'

    Args:
        name: name of an included algorithm or of an entry point in the group ``waltz_env.algorithms``, or a dotted
            path ``package.module:NAME``. A path or an entry point leads to settings, or to a callable without arguments
            that returns them, such as their class.

    Raises:
        UsageError: nothing has that name, or the name leads to something that is not an algorithm's settings.
    """
    return resolve(
        "algorithm",
        name,
        known=ALGORITHMS,
        expected=LearnerConfig,  # type: ignore[type-abstract]  # a protocol stands for the objects that satisfy it
        entry_points=ENTRY_POINTS,
    )
