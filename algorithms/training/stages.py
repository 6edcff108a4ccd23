"""A training recipe as data: which agents learn, from which reward, under which rules, for how long.

The two stages of arXiv:2510.08240 are ``waltz_stages``. Single-model RL is one stage in which the conversation agent
alone learns and no feedback is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from waltz_env.algorithms.protocols import LearnerConfig
from waltz_env.checks import check_choice, check_integer, check_settings
from waltz_env.rewards import SETUP_A, SETUP_B, RewardWeights
from waltz_env.rules import Rules
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK, AgentID


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch of training.

    Attributes:
        name: name of the stage in logs, files and flags; unique within a recipe.
        steps: number of training steps; 0 skips the stage.
        learners: settings of each learning agent's learner; an agent that is absent is frozen.
        weights: weights of the feedback agent's reward.
        rules: rules of the games.
        reset_reference: whether the KL penalty is taken to the weights that the stage starts from, as if the stage
            were a run of its own. Otherwise it is taken to the reference that the policies were made with.
    """

    name: str
    steps: int
    learners: Mapping[AgentID, LearnerConfig]
    weights: RewardWeights = SETUP_A
    rules: Rules = field(default_factory=Rules)
    reset_reference: bool = False

    def __post_init__(self) -> None:
        check_settings(self)
        check_integer("steps", self.steps, at_least=0)
        for agent in self.learners:
            check_choice("agent", agent, AGENTS)


def waltz_stages(
    feedback: LearnerConfig,
    conversation: LearnerConfig,
    *,
    steps: tuple[int, int],
    weights: tuple[RewardWeights, RewardWeights] = (SETUP_A, SETUP_B),
    feedback_stage_2: LearnerConfig | None = None,
    rules: Rules = Rules(),
    reset_reference: bool = False,
) -> tuple[Stage, Stage]:
    """The two stages of arXiv:2510.08240: the feedback agent alone on set-up A, then both agents on set-up B.

    Args:
        feedback: learner of the feedback agent, in both stages unless ``feedback_stage_2`` is given.
        conversation: learner of the conversation agent, in stage 2.
        steps: number of steps of stage 1 and of stage 2.
        weights: reward weights of stage 1 and of stage 2.
        feedback_stage_2: learner of the feedback agent in stage 2, if it is another one.
        rules: rules of the games in both stages.
        reset_reference: whether the KL penalty of stage 2 is taken to the weights that stage 2 starts from.
    """
    both = {FEEDBACK: feedback_stage_2 or feedback, CONVERSATION: conversation}
    return (
        Stage("stage-1", steps[0], {FEEDBACK: feedback}, weights[0], rules),
        Stage("stage-2", steps[1], both, weights[1], rules, reset_reference),
    )


def single_model_stage(conversation: LearnerConfig, *, steps: int) -> Stage:
    """Single-model RL, the paper's baseline: the conversation agent learns from R_c of its draft, without feedback."""
    return Stage("single-model", steps, {CONVERSATION: conversation}, rules=Rules(max_rounds=0))
