"""Things that learn. They know samples and policies; only ``samples`` and the trainer know the game."""

from waltz_env.algorithms.protocols import Learner, Metrics, Policy, Sample
from waltz_env.algorithms.reinforce_pp import ReinforcePP, ReinforcePPConfig
from waltz_env.algorithms.samples import samples
from waltz_env.algorithms.stages import LearnerConfig, Stage, single_model_stage, waltz_stages
from waltz_env.algorithms.supervised import SupervisedConfig, fit
from waltz_env.algorithms.trainer import TrainConfig, play_held_out, train

__all__ = [
    "Learner",
    "LearnerConfig",
    "Metrics",
    "Policy",
    "ReinforcePP",
    "ReinforcePPConfig",
    "Sample",
    "Stage",
    "SupervisedConfig",
    "TrainConfig",
    "fit",
    "play_held_out",
    "samples",
    "single_model_stage",
    "train",
    "waltz_stages",
]
