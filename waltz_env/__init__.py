"""A two-agent game for training language models to be safe without refusing too much (arXiv:2510.08240)."""

from waltz_env.errors import CheckpointError, DataError, JudgeError, UsageError, UsageTypeError, WaltzError
from waltz_env.prompts import PromptSet
from waltz_env.protocols import Agent, Judge
from waltz_env.records import append_games, read_games, write_games
from waltz_env.rewards import SETUPS, Rewards, RewardWeights, score
from waltz_env.rollout import judge_games, play
from waltz_env.types import (
    AGENTS,
    CONVERSATION,
    FEEDBACK,
    AgentID,
    Completion,
    Critique,
    Feedback,
    Judgement,
    Kind,
    Labels,
    Message,
    Observation,
    Prompt,
    Response,
    Trajectory,
)

__version__ = "0.1.0"

__all__ = [
    "AGENTS",
    "CONVERSATION",
    "FEEDBACK",
    "SETUPS",
    "Agent",
    "AgentID",
    "CheckpointError",
    "Completion",
    "Critique",
    "DataError",
    "Feedback",
    "Judge",
    "JudgeError",
    "Judgement",
    "Kind",
    "Labels",
    "Message",
    "Observation",
    "Prompt",
    "PromptSet",
    "Response",
    "RewardWeights",
    "Rewards",
    "Trajectory",
    "UsageError",
    "UsageTypeError",
    "WaltzError",
    "append_games",
    "judge_games",
    "play",
    "read_games",
    "score",
    "write_games",
]
