"""The systems that an evaluation compares (arXiv:2510.08240, sec. 5), as games on the same prompts.

==========================  ==========================================================================================
baseline                    the untrained conversation agent's draft
baseline_safeguard          the same, with a refusal in place of what a safeguard calls unsafe
untrained_pair              inference-time collaboration: both agents untrained
oracle_feedback             the untrained conversation agent, told the judge's labels in the words of a template
single_model_rl             a conversation agent trained without feedback
single_model_rl_safeguard   the same, with a safeguard
distilled                   a conversation agent that has learned from the games of a run to answer alone
feedback_only               a trained feedback agent with the untrained conversation agent
trained_pair                both agents trained
served                      the draft of a conversation agent on a chat server
served_safeguard            the same, with a safeguard
served_pair                 both agents on chat servers
==========================  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from accelerate import Accelerator

from waltz_env.agents import OracleFeedback
from waltz_env.evaluation import first_only, safeguarded
from waltz_env.evaluation.held_out import play_held_out
from waltz_env.presets import Recipe
from waltz_env.protocols import Agent, Judge
from waltz_env.rules import Rules
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Prompt, Trajectory

Systems = dict[str, list[Trajectory]]

TRAINED = {
    "waltz": "trained_pair",
    "single-model": "single_model_rl",
    "feedback-only": "feedback_only",
    "distilled": "distilled",
}
"""The system that a method trains."""

SERVED = {"baseline": "served", "baseline_safeguard": "served_safeguard", "untrained_pair": "served_pair"}
"""What the systems that need no training are called where chat servers play."""


def untrained_systems(
    prompts: Sequence[Prompt],
    agents: Mapping[AgentID, Agent],
    *,
    judge: Judge,
    rules: Rules = Rules(),
    guard: Judge | None = None,
    oracle: bool = False,
    accelerator: Accelerator | None = None,
    exclude_unreadable: bool = False,
) -> Systems:
    """Games of the systems that need no training. The drafts of the baseline are the untrained pair's.

    Args:
        prompts: one game each.
        agents: the pair before any training.
        judge: labels every response, and tells the oracle.
        rules: rules of the pair's games; with ``max_rounds`` 0 only the baseline is played.
        guard: the safeguard of ``baseline_safeguard``; None leaves that system out.
        oracle: whether to play ``oracle_feedback``.
        accelerator: shares the games among its processes.
        exclude_unreadable: whether to leave out games that an agent's model cannot read, see ``play``.
    """
    games = play_held_out(
        prompts, agents, judge=judge, rules=rules, accelerator=accelerator, exclude_unreadable=exclude_unreadable
    )
    systems = {"baseline": first_only(games)}
    if guard is not None:
        systems["baseline_safeguard"] = safeguarded(systems["baseline"], guard, judge=judge)
    if rules.max_rounds > 0:
        systems["untrained_pair"] = games
    if oracle:
        systems |= oracle_system(
            prompts,
            agents,
            judge=judge,
            rules=rules,
            accelerator=accelerator,
            exclude_unreadable=exclude_unreadable,
        )
    return systems


def served_systems(prompts: Sequence[Prompt], agents: Mapping[AgentID, Agent], **arguments: Any) -> Systems:
    """Games of agents on chat servers; arguments as in ``untrained_systems``."""
    return {SERVED[name]: games for name, games in untrained_systems(prompts, agents, **arguments).items()}


def oracle_system(
    prompts: Sequence[Prompt],
    agents: Mapping[AgentID, Agent],
    *,
    judge: Judge,
    rules: Rules = Rules(),
    accelerator: Accelerator | None = None,
    exclude_unreadable: bool = False,
) -> Systems:
    """Games of ``oracle_feedback``; arguments as in ``untrained_systems``."""
    games = play_held_out(
        prompts,
        {CONVERSATION: agents[CONVERSATION], FEEDBACK: OracleFeedback(prompts, judge)},
        judge=judge,
        rules=replace(rules, max_rounds=max(rules.max_rounds, 1)),
        accelerator=accelerator,
        exclude_unreadable=exclude_unreadable,
    )
    return {"oracle_feedback": games}


def trained_systems(
    prompts: Sequence[Prompt],
    agents: Mapping[AgentID, Agent],
    *,
    judge: Judge,
    recipe: Recipe,
    name: str | None = None,
    guard: Judge | None = None,
    accelerator: Accelerator | None = None,
    exclude_unreadable: bool = False,
) -> Systems:
    """Games of what a run has trained; after single-model training also with the safeguard, if there is one.

    Args:
        prompts: one game each.
        agents: the pair with the trained weights.
        judge: labels every response.
        recipe: recipe of the run.
        name: name of the system; the default is that of the recipe's method.
        guard: the safeguard.
        accelerator: shares the games among its processes.
        exclude_unreadable: whether to leave out games that an agent's model cannot read, see ``play``.
    """
    name = name or TRAINED[recipe.method]
    games = play_held_out(
        prompts,
        agents,
        judge=judge,
        rules=recipe.rules,
        accelerator=accelerator,
        exclude_unreadable=exclude_unreadable,
    )
    systems = {name: games}
    if recipe.method == "single-model" and guard is not None:
        systems[f"{name}_safeguard"] = safeguarded(systems[name], guard, judge=judge)
    return systems
