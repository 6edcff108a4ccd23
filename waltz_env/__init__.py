"""A two-agent game for training language models to be safe without refusing too much (arXiv:2510.08240).

>>> env = make("WaltzSafety-v0")
>>> observations, infos = env.reset(seed=0)
>>> env.agents
['conversation_0', 'feedback_0']
"""

from waltz_env.choice import WaltzSafetyChoiceAECEnv, WaltzSafetyChoiceEnv
from waltz_env.errors import CheckpointError, DataError, JudgeError, UsageError, UsageTypeError, WaltzError
from waltz_env.judges import RefusalJudge, RuleJudge
from waltz_env.judging import judge_games
from waltz_env.prompts import PromptSet
from waltz_env.protocols import Agent, Judge
from waltz_env.records import read_games, write_games
from waltz_env.registration import (
    CHOICE_ID,
    DEFAULT_ID,
    make,
    make_aec,
    pprint_registry,
    register,
    register_single_agent,
    spec,
)
from waltz_env.rewards import SETUPS, Rewards, RewardWeights, score
from waltz_env.rollout import play
from waltz_env.rules import Rules
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
    NoVerdict,
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
    "NoVerdict",
    "Observation",
    "Prompt",
    "PromptSet",
    "RefusalJudge",
    "Response",
    "RewardWeights",
    "Rewards",
    "RuleJudge",
    "Rules",
    "Trajectory",
    "UsageError",
    "UsageTypeError",
    "WaltzError",
    "judge_games",
    "make",
    "make_aec",
    "play",
    "pprint_registry",
    "read_games",
    "register",
    "score",
    "spec",
    "write_games",
]

register(DEFAULT_ID)
register(CHOICE_ID, parallel=WaltzSafetyChoiceEnv, aec=WaltzSafetyChoiceAECEnv)
register_single_agent()
