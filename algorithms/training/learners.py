"""One policy for both roles: where agents have the same policy, one learner takes the rows of all of them.

Two learners would move the same weights with two optimisers, the second from where the first left them and with rows
that are no longer on-policy. One learner makes one update: its loss is the mean over the rows of all its agents, while
baselines and normalisation stay with each agent (see ``surrogate``), whose rewards are not on one scale.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from accelerate import Accelerator

from waltz_env.algorithms.protocols import Learner, Metrics, Policy, Sample
from waltz_env.algorithms.training.stages import Stage
from waltz_env.errors import UsageError
from waltz_env.types import AgentID


def build_learners(
    stage: Stage, policies: Mapping[AgentID, Policy], accelerator: Accelerator
) -> dict[AgentID, Learner]:
    """The learner of each agent that learns in ``stage``; agents with the same policy have the same one.

    Raises:
        UsageError: agents with the same policy have different settings.
    """
    learners: dict[AgentID, Learner] = {}
    for agent, config in stage.learners.items():
        sharing = next((other for other in learners if policies[other] is policies[agent]), None)
        if sharing is None:
            learners[agent] = config.build(policies[agent], accelerator)
        elif stage.learners[sharing] == config:
            learners[agent] = learners[sharing]
        else:
            raise UsageError(
                f"{sharing} and {agent} share one policy and so one learner; stage {stage.name!r} has different "
                "settings for the two. Give both the same."
            )
    return learners


def update_learners(
    learners: Mapping[AgentID, Learner], rows: Mapping[AgentID, Sequence[Sample]]
) -> dict[AgentID, Metrics]:
    """One update of each learner from the rows of its agents.

    Returns:
        Each agent's metrics, with ``update_seconds``; agents of one learner have the same.
    """
    metrics: dict[AgentID, Metrics] = {}
    for agent, learner in learners.items():
        if agent not in metrics:
            agents = [other for other in learners if learners[other] is learner]
            start = time.perf_counter()
            found = learner.update([row for other in agents for row in rows[other]])
            metrics |= dict.fromkeys(agents, found | {"update_seconds": time.perf_counter() - start})
    return metrics
