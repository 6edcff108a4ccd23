"""From finished games to training samples: the only file among the algorithms that knows the game.

Follows arXiv:2510.08240, sec. 4: each agent learns from at most one of its turns per game. The feedback agent's turn is
drawn uniformly; the conversation agent's is the draft c_0 or the last response c_T. The paper leaves open the odds of
the two; ``draft_probability`` is 0.5. Three settings go beyond the paper: ``turns="all"``, ``responses`` (an ablation)
and ``group="labels"``.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from waltz_env.algorithms.protocols import Sample
from waltz_env.checks import check_choice, check_number, check_settings
from waltz_env.errors import UsageError
from waltz_env.rewards import RewardWeights, score, setup
from waltz_env.types import AGENTS, CONVERSATION, AgentID, Completion, Labels, Trajectory

Turns = Literal["one", "all"]
Responses = Literal["both", "drafts", "revisions"]
Group = Literal["prompt", "labels"]


@dataclass(frozen=True, slots=True)
class SampleConfig:
    """Which turns of a game become training samples, and which samples share a baseline.

    Attributes:
        turns: ``"one"`` random turn per agent and game, as in the paper, or ``"all"`` turns.
        draft_probability: probability that the draft c_0, and not the last response, is the conversation agent's one
            turn. Only games that have both are drawn from.
        responses: which responses the conversation agent learns from: ``"drafts"`` (c_0), ``"revisions"`` (c_t, t > 0)
            or ``"both"``. A game that ended with its draft has no revision to learn from.
        group: which samples share a baseline, always within one agent and turn. ``"prompt"``: samples of the same
            prompt. ``"labels"``: samples that act on a latest response with the same labels (c_t for the critique f_t,
            c_{t-1} for the revision c_t; all drafts are one group, since no response precedes them). The latter keeps
            an agent from being punished for a state it did not cause: without it, at lambda 0, a satisfactory draft
            always pays the feedback agent less than average, whatever it flags.
    """

    turns: Turns = "one"
    draft_probability: float = 0.5
    responses: Responses = "both"
    group: Group = "prompt"

    def __post_init__(self) -> None:
        check_settings(self)
        check_choice("choice of turns", self.turns, get_args(Turns))
        check_number("draft_probability", self.draft_probability, low=0, high=1)
        check_choice("choice of responses", self.responses, get_args(Responses))
        check_choice("group", self.group, get_args(Group))


def samples(
    games: Sequence[Trajectory],
    agent: AgentID,
    *,
    weights: RewardWeights | str,
    rng: np.random.Generator,
    config: SampleConfig = SampleConfig(),
) -> list[Sample]:
    """The training samples of one agent, in the order of the games.

    Games without a judgement of every response are left out, and so are turns in which the agent sampled no token.

    Args:
        games: finished games.
        agent: the agent whose turns are taken.
        weights: weights of the feedback agent's reward, or the name of a set-up.
        rng: draws the turn where ``config.turns`` is ``"one"``.
        config: which turns are taken and which samples share a baseline.

    Raises:
        UsageError: the agent is unknown, or gave completions without token ids and log-probabilities.
    """
    check_choice("agent", agent, AGENTS)
    weights = setup(weights)
    result = []
    for game in games:
        if not game.judged:
            continue
        completions = _completions(game, agent)
        rewards = score(game, weights).of(agent)
        turns = _turns(len(completions), config.responses if agent == CONVERSATION else "both")
        if config.turns == "one" and len(turns) > 1:
            turns = [_draw(turns, agent, rng, config.draft_probability)]
        for turn in turns:
            if completions[turn].token_ids != ():
                group = (agent, turn, *_group(game, agent, turn, config.group))
                sample = _sample(completions[turn], agent, rewards[turn], group)
                result.append(replace(sample, agent=agent, turn=turn, state=_state(game, agent, turn)))
    return result


def _completions(game: Trajectory, agent: AgentID) -> list[Completion]:
    turns = game.responses if agent == CONVERSATION else game.critiques
    return [turn.completion for turn in turns]


def _turns(played: int, responses: Responses) -> Sequence[int]:
    return {"both": range(played), "drafts": range(min(played, 1)), "revisions": range(1, played)}[responses]


def _draw(turns: Sequence[int], agent: AgentID, rng: np.random.Generator, draft_probability: float) -> int:
    """One of several turns."""
    if agent != CONVERSATION:
        return int(rng.integers(len(turns)))
    return 0 if turns[0] == 0 and rng.random() < draft_probability else turns[-1]


def _group(game: Trajectory, agent: AgentID, turn: int, group: Group) -> tuple[Hashable, ...]:
    if group == "prompt":
        return game.prompt.id, game.prompt.text
    return (_latest_labels(game, turn - 1 if agent == CONVERSATION else turn),)


def _state(game: Trajectory, agent: AgentID, turn: int) -> tuple[float, ...]:
    """The numbers that ``protocols.STATE`` names, before ``agent`` acts in ``turn``."""
    labels = _latest_labels(game, turn - 1 if agent == CONVERSATION else turn)
    flags = game.critiques[turn - 1].feedback.labels if turn > 0 else None
    nothing = Labels(unsafe=False, overrefuse=False)
    pairs = [labels or nothing, flags or nothing]
    bits = (game.prompt.harmful, *(bit for pair in pairs for bit in (pair.unsafe, pair.overrefuse)))
    return (*map(float, bits), float(turn))


def _latest_labels(game: Trajectory, t: int) -> Labels | None:
    return game.responses[t].labels if t >= 0 else None


def _sample(completion: Completion, agent: AgentID, reward: float, group: Hashable) -> Sample:
    prompt_ids, token_ids, logprobs = completion.prompt_ids, completion.token_ids, completion.logprobs
    if not prompt_ids or token_ids is None or logprobs is None or len(token_ids) != len(logprobs):
        raise UsageError(
            f"{agent} cannot be trained on its completions: a learner needs prompt_ids, token_ids and one "
            "log-probability for each token, exactly as sampled, and scripted agents and chat servers give none. "
            "Train an agent that keeps them, such as a TransformersAgent, or leave this agent frozen."
        )
    return Sample(prompt_ids, token_ids, logprobs, reward, group, completion.version)
