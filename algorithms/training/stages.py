"""A training recipe as data: which agents learn, from which reward, for how long.

The paper's two stages (arXiv:2510.08240) are ``waltz_stages``; single-model RL is one stage in
which the conversation agent alone learns and ``max_rounds`` is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from waltz_env.algorithms.protocols import LearnerConfig
from waltz_env.rewards import SETUP_A, SETUP_B, RewardWeights
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch of training.

    Attributes:
        name: for logs and files.
        steps: number of training steps.
        learners: the settings of each agent's learner; an agent that is absent is frozen.
        weights: of the feedback agent's reward.
        max_rounds: T_max; 0 plays c_0 alone.
    """

    name: str
    steps: int
    learners: Mapping[AgentID, LearnerConfig]
    weights: RewardWeights = field(default=SETUP_A)
    max_rounds: int = 1


def waltz_stages(
    feedback: LearnerConfig,
    conversation: LearnerConfig,
    *,
    steps: tuple[int, int],
    weights: tuple[RewardWeights, RewardWeights] = (SETUP_A, SETUP_B),
    feedback_stage_2: LearnerConfig | None = None,
    max_rounds: int = 1,
) -> tuple[Stage, Stage]:
    """The two stages of arXiv:2510.08240: the feedback agent alone on set-up A, then both on set-up B.

    Args:
        feedback: learner of the feedback agent, in both stages unless ``feedback_stage_2`` is given.
        conversation: learner of the conversation agent, in stage 2.
        steps: of stage 1 and of stage 2.
        weights: of stage 1 and of stage 2.
        feedback_stage_2: learner of the feedback agent in stage 2, if another one.
        max_rounds: T_max of both stages.
    """
    return (
        Stage("stage-1", steps[0], {FEEDBACK: feedback}, weights[0], max_rounds),
        Stage(
            "stage-2",
            steps[1],
            {FEEDBACK: feedback_stage_2 or feedback, CONVERSATION: conversation},
            weights[1],
            max_rounds,
        ),
    )


def single_model_stage(conversation: LearnerConfig, *, steps: int) -> Stage:
    """Single-model RL, the paper's baseline: R_c on c_0, no feedback agent."""
    return Stage("single-model", steps, {CONVERSATION: conversation}, max_rounds=0)
