"""From finished games to training rows: the only file among the algorithms that knows the game.

Follows arXiv:2510.08240, sec. 4: of each game an agent learns from one of its turns at most. The feedback agent's is
drawn uniformly; the conversation agent's is the draft c_0 or the last response c_T. The odds of the two are left open
there; ``draft_probability`` is 0.5. ``rows="all"`` (every turn), ``responses`` (an ablation) and ``group="verdict"`` go
beyond it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from waltz_env.algorithms.protocols import Sample
from waltz_env.errors import UsageError, unknown_name
from waltz_env.rewards import RewardWeights, score, setup
from waltz_env.types import AGENTS, CONVERSATION, AgentID, Completion, Labels, Trajectory

Rows = Literal["one", "all"]
Responses = Literal["both", "drafts", "revisions"]
Group = Literal["prompt", "verdict"]


def samples(
    trajectories: Sequence[Trajectory],
    weights: RewardWeights | str,
    agent: AgentID,
    rng: np.random.Generator,
    *,
    draft_probability: float = 0.5,
    rows: Rows = "one",
    responses: Responses = "both",
    group: Group = "prompt",
) -> list[Sample]:
    """The training rows of one agent, in the order of the games.

    Games that the judge failed on are left out, and so are turns in which the agent sampled no token.

    Args:
        trajectories: finished games.
        weights: of the feedback agent's reward, or the name of a set-up.
        agent: whose rows.
        rng: draws the turn where ``rows`` is ``"one"``.
        draft_probability: of the draft c_0 instead of the last response, where a game has both.
        rows: ``"one"`` turn of a game, or ``"all"`` turns.
        responses: which ones the conversation agent learns from: ``"drafts"`` (c_0) alone, ``"revisions"`` (c_t, t > 0)
            alone, or ``"both"``. A game that ended with its draft has no revision to learn from.
        group: which rows share a baseline, always within one agent and turn. ``"prompt"``: those of the same prompt.
            ``"verdict"``: those whose state holds a latest response with the same labels (c_t for the feedback f_t,
            c_{t-1} for the revision c_t; drafts, whose state holds no response, are all one group). A baseline by
            verdict keeps an agent from being punished for states it did not bring about: without one, at lambda 0, a
            satisfactory draft always pays the feedback agent less than average, whatever its flags.

    Raises:
        UsageError: the agent gave completions without token ids and log-probabilities, or an argument is unknown.
    """
    if agent not in AGENTS:
        raise unknown_name("agent", agent, AGENTS)
    if rows not in get_args(Rows):
        raise unknown_name("choice of rows", rows, get_args(Rows))
    if responses not in get_args(Responses):
        raise unknown_name("choice of responses", responses, get_args(Responses))
    if group not in get_args(Group):
        raise unknown_name("group", group, get_args(Group))
    weights = setup(weights)
    found = []
    for trajectory in trajectories:
        if not trajectory.judged:
            continue
        completions = _completions(trajectory, agent)
        rewards = score(trajectory, weights).of(agent)
        turns = _turns(len(completions), responses if agent == CONVERSATION else "both")
        if rows == "one" and len(turns) > 1:
            turns = [_draw(turns, agent, rng, draft_probability)]
        for turn in turns:
            if completions[turn].token_ids != ():
                key = (agent, turn, *_state(trajectory, agent, turn, group))
                row = _sample(completions[turn], agent, rewards[turn], key)
                found.append(replace(row, agent=agent, turn=turn, state=_global_state(trajectory, agent, turn)))
    return found


def _completions(trajectory: Trajectory, agent: AgentID) -> list[Completion]:
    turns = trajectory.responses if agent == CONVERSATION else trajectory.critiques
    return [turn.completion for turn in turns]


def _turns(played: int, responses: Responses) -> Sequence[int]:
    return {"both": range(played), "drafts": range(min(played, 1)), "revisions": range(1, played)}[responses]


def _draw(turns: Sequence[int], agent: AgentID, rng: np.random.Generator, draft_probability: float) -> int:
    """One of several turns."""
    if agent != CONVERSATION:
        return int(rng.integers(len(turns)))
    return 0 if turns[0] == 0 and rng.random() < draft_probability else turns[-1]


def _state(trajectory: Trajectory, agent: AgentID, turn: int, group: Group) -> tuple[Hashable, ...]:
    if group == "prompt":
        return trajectory.prompt.id, trajectory.prompt.text
    return (_latest_verdict(trajectory, turn - 1 if agent == CONVERSATION else turn),)


def _global_state(trajectory: Trajectory, agent: AgentID, turn: int) -> tuple[float, ...]:
    """The numbers that ``protocols.STATE`` names, before ``agent`` acts in ``turn``."""
    verdict = _latest_verdict(trajectory, turn - 1 if agent == CONVERSATION else turn)
    flags = trajectory.critiques[turn - 1].feedback.labels if turn > 0 else None
    labels = (each or Labels(unsafe=False, overrefuse=False) for each in (verdict, flags))
    bits = (trajectory.prompt.harmful, *(bit for each in labels for bit in (each.unsafe, each.overrefuse)))
    return (*map(float, bits), float(turn))


def _latest_verdict(trajectory: Trajectory, t: int) -> Labels | None:
    return trajectory.responses[t].labels if t >= 0 else None


def _sample(completion: Completion, agent: AgentID, reward: float, group: Hashable) -> Sample:
    prompt_ids, token_ids, logprobs = completion.prompt_ids, completion.token_ids, completion.logprobs
    if not prompt_ids or token_ids is None or logprobs is None or len(token_ids) != len(logprobs):
        raise UsageError(
            f"{agent} cannot be trained on its completions: a learner needs prompt_ids, token_ids and one "
            "log-probability for each token, exactly as sampled, and scripted agents and chat servers give none. "
            "Train an agent that keeps them, such as a TransformersAgent, or leave this agent frozen."
        )
    return Sample(prompt_ids, token_ids, logprobs, reward, group, completion.version)
