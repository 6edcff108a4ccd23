"""The learners of a stage, and one policy for both roles.

Agents with the same policy get one learner, which takes the samples of all of them. Two learners would move the same
weights with two optimizers, the second on samples that are no longer on-policy. The one learner makes one update: its
loss is the mean over the samples of all its agents, while baselines and normalization stay with each agent (see
``surrogate``), because their rewards are not on one scale.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from accelerate import Accelerator
from torch import Tensor

from waltz_env.algorithms.protocols import Learner, Metrics, Policy, RemotePolicy, ResettablePolicy, Sample, Trainable
from waltz_env.algorithms.remote_learner import remote_learner
from waltz_env.algorithms.training.stages import Stage
from waltz_env.errors import DivergedError, UsageError
from waltz_env.protocols import Agent
from waltz_env.types import AgentID


def policies_of(agents: Mapping[AgentID, Agent]) -> dict[AgentID, Policy | RemotePolicy]:
    """The policy of each agent that carries one."""
    return {name: agent.policy for name, agent in agents.items() if isinstance(agent, Trainable)}


def build_learners(stage: Stage, agents: Mapping[AgentID, Agent], accelerator: Accelerator) -> dict[AgentID, Learner]:
    """The learner of each agent that learns in ``stage``; agents with the same policy have the same one.

    Raises:
        UsageError: an agent carries no policy, agents with the same policy have different settings, or an algorithm
            cannot train a policy on a service (see ``check_remote``).
    """
    policies = policies_of(agents)
    learners: dict[AgentID, Learner] = {}
    for name, config in stage.learners.items():
        if name not in policies:
            raise _untrainable(stage, name, agents)
        sharing = next((other for other in learners if policies[other] is policies[name]), None)
        policy = policies[name]
        if sharing is None:
            learners[name] = (
                remote_learner(config, policy)
                if isinstance(policy, RemotePolicy)
                else config.build(policy, accelerator)
            )
        elif stage.learners[sharing] == config:
            learners[name] = learners[sharing]
        else:
            raise UsageError(
                f"{sharing} and {name} share one policy and therefore one learner, but stage {stage.name!r} has "
                "different settings for the two. Give both the same settings."
            )
    return learners


def check_trainable(stages: Sequence[Stage], agents: Mapping[AgentID, Agent]) -> None:
    """Check that every stage trains somebody, and only agents that carry a policy.

    Raises:
        UsageError: a stage does not.
    """
    for stage in stages:
        if not stage.learners:
            raise UsageError(f"Stage {stage.name!r} trains no agent; name one in `learners`.")
        for name in stage.learners:
            agent = agents.get(name)
            if not isinstance(agent, Trainable):
                raise _untrainable(stage, name, agents)
            if stage.reset_reference and not isinstance(agent.policy, ResettablePolicy):
                raise UsageError(
                    f"Stage {stage.name!r} resets the reference of the KL penalty, and the policy of {name}, a "
                    f"{type(agent.policy).__name__}, has no method `reset_reference`. Set reset_reference=False."
                )


def first_references(stage: Stage, agents: Mapping[AgentID, Agent]) -> dict[AgentID, dict[str, Tensor]]:
    """Copies of the weights that become references as ``stage`` begins, by agent; none if it does not reset them."""
    if not stage.reset_reference:
        return {}
    policies = policies_of(agents)
    learning = {name: policies[name] for name in stage.learners}
    return {
        name: {key: tensor.clone() for key, tensor in policy.state_dict().items()}
        for name, policy in learning.items()
        if isinstance(policy, ResettablePolicy)
    }


def reset_references(agents: Mapping[AgentID, Agent], references: Mapping[AgentID, Mapping[str, Tensor]]) -> None:
    """Give every policy its reference: the one in ``references``, or else the one that it was made with."""
    for name, policy in policies_of(agents).items():
        if isinstance(policy, ResettablePolicy):
            policy.reset_reference(references.get(name))


def update_learners(
    learners: Mapping[AgentID, Learner], samples: Mapping[AgentID, Sequence[Sample]]
) -> dict[AgentID, Metrics]:
    """Update each learner once, with the samples of its agents.

    Returns:
        Each agent's metrics, with ``update_seconds``; agents of one learner have the same.

    Raises:
        DivergedError: a gradient is NaN or infinite; the message names the agent.
    """
    metrics: dict[AgentID, Metrics] = {}
    for name, learner in learners.items():
        if name not in metrics:
            agents = [other for other in learners if learners[other] is learner]
            start = time.perf_counter()
            try:
                update = learner.update([sample for other in agents for sample in samples[other]])
            except DivergedError as error:
                raise DivergedError(f"The update of {' and '.join(agents)} failed. {error}") from error
            metrics |= dict.fromkeys(agents, update | {"update_seconds": time.perf_counter() - start})
    return metrics


def _untrainable(stage: Stage, name: AgentID, agents: Mapping[AgentID, Agent]) -> UsageError:
    what = f"is a {type(agents[name]).__name__}, which carries no policy" if name in agents else "is not among `agents`"
    return UsageError(
        f"Stage {stage.name!r} trains {name}, but {name} {what}. An agent that learns has its trainable weights in an "
        "attribute `policy`, such as TransformersAgent; leave others out of `learners`."
    )
