"""The discrete twin of the game: numbers as observations, a few actions, a simulated language model."""

from typing import TYPE_CHECKING

from waltz_env.choice.dynamics import ConversationAction, Dynamics, FeedbackAction
from waltz_env.choice.env import FEATURES, WaltzSafetyChoiceAECEnv, WaltzSafetyChoiceEnv
from waltz_env.choice.strategies import Strategy, mean_returns, never_flag, random_strategy, solution
from waltz_env.lazy import lazy_attributes

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        renamed={
            "Policy": "waltz_env.choice.Strategy",
            "random_policy": "waltz_env.choice.random_strategy",
        },
    )

__all__ = [
    "FEATURES",
    "ConversationAction",
    "Dynamics",
    "FeedbackAction",
    "Strategy",
    "WaltzSafetyChoiceAECEnv",
    "WaltzSafetyChoiceEnv",
    "mean_returns",
    "never_flag",
    "random_strategy",
    "solution",
]
