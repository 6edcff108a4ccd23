"""The discrete twin of the game: numbers to see, a few actions to choose from, a simulated language model."""

from waltz_env.choice.dynamics import ConversationAction, Dynamics, FeedbackAction
from waltz_env.choice.env import FEATURES, WaltzSafetyChoiceAECEnv, WaltzSafetyChoiceEnv
from waltz_env.choice.policies import Policy, mean_returns, never_flag, random_policy, solution

__all__ = [
    "FEATURES",
    "ConversationAction",
    "Dynamics",
    "FeedbackAction",
    "Policy",
    "WaltzSafetyChoiceAECEnv",
    "WaltzSafetyChoiceEnv",
    "mean_returns",
    "never_flag",
    "random_policy",
    "solution",
]
