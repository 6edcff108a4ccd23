"""Things that learn.

An algorithm is an ``Estimator``, which turns rewards into advantages, and its settings; ``PolicyGradient`` learns with
it. These know samples and policies; only ``training`` and the probe games know the game.
"""

import warnings
from typing import TYPE_CHECKING

from waltz_env.algorithms.critic import CriticConfig
from waltz_env.algorithms.estimator import Estimator
from waltz_env.algorithms.grpo import GRPO, GRPOConfig
from waltz_env.algorithms.mappo import MAPPO
from waltz_env.algorithms.policy_gradient import PolicyGradient
from waltz_env.algorithms.ppo import PPO, PPOConfig
from waltz_env.algorithms.protocols import (
    FeaturePolicy,
    Learner,
    LearnerConfig,
    Metrics,
    Policy,
    ResettablePolicy,
    Sample,
    SeparablePolicy,
    Trainable,
    needs_groups,
)
from waltz_env.algorithms.registry import ALGORITHMS, algorithm, settings_of, with_settings
from waltz_env.algorithms.reinforce_pp import ReinforcePP, ReinforcePPConfig
from waltz_env.algorithms.rloo import RLOO, RLOOConfig
from waltz_env.algorithms.role_baseline import RoleBaseline, RoleBaselineConfig
from waltz_env.algorithms.supervised import SupervisedConfig, fit
from waltz_env.algorithms.surrogate import SurrogateConfig
from waltz_env.algorithms.training.loop import LoopConfig, StepReport, train
from waltz_env.algorithms.training.run_log import Logger, RunLog
from waltz_env.algorithms.training.samples import SampleConfig, samples
from waltz_env.algorithms.training.stages import Stage, single_model_stage, waltz_stages
from waltz_env.algorithms.update_batch import UpdateBatch
from waltz_env.evaluation.held_out import play_held_out
from waltz_env.lazy import lazy_attributes

__all__ = [
    "ALGORITHMS",
    "GRPO",
    "MAPPO",
    "PPO",
    "RLOO",
    "CriticConfig",
    "Estimator",
    "FeaturePolicy",
    "GRPOConfig",
    "Learner",
    "LearnerConfig",
    "Logger",
    "LoopConfig",
    "Metrics",
    "PPOConfig",
    "Policy",
    "PolicyGradient",
    "RLOOConfig",
    "ReinforcePP",
    "ReinforcePPConfig",
    "ResettablePolicy",
    "RoleBaseline",
    "RoleBaselineConfig",
    "RunLog",
    "Sample",
    "SampleConfig",
    "SeparablePolicy",
    "Stage",
    "StepReport",
    "SupervisedConfig",
    "SurrogateConfig",
    "Trainable",
    "UpdateBatch",
    "algorithm",
    "fit",
    "needs_groups",
    "play_held_out",
    "samples",
    "settings_of",
    "single_model_stage",
    "train",
    "waltz_stages",
    "with_settings",
]

if not TYPE_CHECKING:
    _renamed, __dir__ = lazy_attributes(
        __name__, renamed={"TrainConfig": "waltz_env.algorithms.training.loop.LoopConfig"}
    )

    def __getattr__(name: str) -> object:
        if name == "NEEDS_GROUPS":
            warnings.warn(
                f"{__name__}.NEEDS_GROUPS is deprecated: use {__name__}.needs_groups(algorithm(name)).",
                DeprecationWarning,
                stacklevel=2,
            )
            return frozenset(name for name, config in ALGORITHMS.items() if needs_groups(config))
        return _renamed(name)
