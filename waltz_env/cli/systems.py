"""The systems that an evaluation sets side by side (arXiv:2510.08240, sec. 5), as games on the same prompts.

==========================  ==========================================================================================
baseline                    the untrained conversation agent's draft
baseline_safeguard          the same, with a refusal where a safeguard calls it unsafe
untrained_pair              inference-time collaboration: both agents untrained
oracle_feedback             the untrained conversation agent, told in a template's words what the judge's labels say
single_model_rl             a conversation agent trained without feedback
single_model_rl_safeguard   the same, with a safeguard
feedback_only               a trained feedback agent with the untrained conversation agent
trained_pair                both trained
==========================  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accelerate import Accelerator

from waltz_env.agents import OracleFeedback
from waltz_env.algorithms import play_held_out
from waltz_env.evaluation import first_only, safeguarded
from waltz_env.presets import Recipe
from waltz_env.protocols import Agent, Judge
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Prompt, Trajectory

Systems = dict[str, list[Trajectory]]

TRAINED = {"waltz": "trained_pair", "single-model": "single_model_rl", "feedback-only": "feedback_only"}


def untrained_systems(
    agents: Mapping[AgentID, Agent],
    judge: Judge,
    prompts: Sequence[Prompt],
    *,
    rounds: int = 1,
    guard: Judge | None = None,
    oracle: bool = False,
    accelerator: Accelerator | None = None,
) -> Systems:
    """Games of the systems that need no training. The baseline's drafts are those of the untrained pair.

    Args:
        agents: the pair before any training.
        judge: labels every response, and tells the oracle.
        prompts: one game each.
        rounds: of feedback at most; 0 plays the baseline alone.
        guard: of ``baseline_safeguard``; None leaves that system out.
        oracle: whether to play ``oracle_feedback``.
        accelerator: shares the games among its processes.
    """
    games = play_held_out(agents, judge, prompts, rounds, accelerator)
    systems = {"baseline": first_only(games)}
    if guard is not None:
        systems["baseline_safeguard"] = safeguarded(systems["baseline"], guard, judge)
    if rounds > 0:
        systems["untrained_pair"] = games
    if oracle:
        told = {CONVERSATION: agents[CONVERSATION], FEEDBACK: OracleFeedback(prompts, judge)}
        systems["oracle_feedback"] = play_held_out(told, judge, prompts, max(rounds, 1), accelerator)
    return systems


def trained_systems(
    recipe: Recipe,
    agents: Mapping[AgentID, Agent],
    judge: Judge,
    prompts: Sequence[Prompt],
    *,
    name: str | None = None,
    guard: Judge | None = None,
    accelerator: Accelerator | None = None,
) -> Systems:
    """Games of what a run has trained; after single-model training with the safeguard too, where there is a guard.

    Args:
        recipe: of the run.
        agents: with the trained weights.
        judge: labels every response.
        prompts: one game each.
        name: of the system; that of the recipe's method by default.
        guard: the safeguard.
        accelerator: shares the games among its processes.
    """
    name = name or TRAINED[recipe.method]
    systems = {name: play_held_out(agents, judge, prompts, recipe.rounds, accelerator)}
    if recipe.method == "single-model" and guard is not None:
        systems[f"{name}_safeguard"] = safeguarded(systems[name], guard, judge)
    return systems
