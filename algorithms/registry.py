"""Algorithms by name: those that are included, those that other packages register, and any by its dotted path."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from types import MappingProxyType

from waltz_env.algorithms.grpo import GRPOConfig
from waltz_env.algorithms.mappo import MAPPO
from waltz_env.algorithms.ppo import PPOConfig
from waltz_env.algorithms.reinforce_pp import ReinforcePPConfig
from waltz_env.algorithms.rloo import RLOOConfig
from waltz_env.algorithms.role_baseline import RoleBaselineConfig
from waltz_env.algorithms.stages import LearnerConfig
from waltz_env.dotted import load_object
from waltz_env.errors import UsageError, unknown_name

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
        name: of an included algorithm, of an entry point in the group ``waltz_env.algorithms``, or a dotted path
            ``package.module:NAME``. A path or an entry point leads to settings, or to what gives them when it is called
            without arguments, such as their class.

    Raises:
        UsageError: nothing has that name, or what has it is no algorithm's settings.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    outside = entry_points(group=ENTRY_POINTS)
    if ":" in name:
        return _settings(name, load_object(name))
    if name not in outside.names:
        raise unknown_name("algorithm", name, {*ALGORITHMS, *outside.names})
    return _settings(name, outside[name].load())


def _settings(name: str, found: object) -> LearnerConfig:
    if callable(found):
        found = found()
    if not isinstance(found, LearnerConfig):
        raise UsageError(
            f"The algorithm {name!r} leads to {found!r}, and settings with a method `build(policy, accelerator)` are "
            "expected, or what gives them when it is called."
        )
    return found
