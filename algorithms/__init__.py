"""Things that learn. Learners know samples and policies; ``samples``, the trainer and the probe games know the game."""

from waltz_env.algorithms.critic import CriticConfig
from waltz_env.algorithms.grpo import GRPO, GRPOConfig
from waltz_env.algorithms.mappo import MAPPO
from waltz_env.algorithms.ppo import PPO, PPOConfig
from waltz_env.algorithms.protocols import FeaturePolicy, Learner, LearnerConfig, Metrics, Policy, Sample
from waltz_env.algorithms.registry import ALGORITHMS, NEEDS_GROUPS, algorithm
from waltz_env.algorithms.reinforce_pp import ReinforcePP, ReinforcePPConfig
from waltz_env.algorithms.rloo import RLOO, RLOOConfig
from waltz_env.algorithms.role_baseline import RoleBaseline, RoleBaselineConfig
from waltz_env.algorithms.supervised import SupervisedConfig, fit
from waltz_env.algorithms.surrogate import SurrogateConfig
from waltz_env.algorithms.training.loop import TrainConfig, play_held_out, train
from waltz_env.algorithms.training.samples import samples
from waltz_env.algorithms.training.stages import Stage, single_model_stage, waltz_stages

__all__ = [
    "ALGORITHMS",
    "GRPO",
    "MAPPO",
    "NEEDS_GROUPS",
    "PPO",
    "RLOO",
    "CriticConfig",
    "FeaturePolicy",
    "GRPOConfig",
    "Learner",
    "LearnerConfig",
    "Metrics",
    "PPOConfig",
    "Policy",
    "RLOOConfig",
    "ReinforcePP",
    "ReinforcePPConfig",
    "RoleBaseline",
    "RoleBaselineConfig",
    "Sample",
    "Stage",
    "SupervisedConfig",
    "SurrogateConfig",
    "TrainConfig",
    "algorithm",
    "fit",
    "play_held_out",
    "samples",
    "single_model_stage",
    "train",
    "waltz_stages",
]
