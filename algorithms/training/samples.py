"""From finished games to training samples: the only file among the algorithms that knows the game.

Follows arXiv:2510.08240, sec. 4: each agent learns from at most one of its turns per game. The feedback agent's turn is
drawn uniformly; the conversation agent's is the draft c_0 or the last response c_T. The paper leaves open the odds of
the two; ``draft_probability`` is 0.5. Three settings go beyond the paper: ``turns="all"``, ``responses`` (an ablation)
and ``group="labels"``.

Games that branch (``waltz_env.branches``) go beyond it, too:

1. A turn that several games share is one row.
2. A draft is paid R_c(c_0), as everywhere: what happens to it later is the doing of others.
3. The first critique of a draft is paid the mean of R_f over its m revisions. The flags and the format are the same
   each time, so this is the mean of R_DIR.
4. Rows of a turn that branches share a baseline if their agent had observed the same: the prompt (drafts), the prompt
   and the draft (first critiques), or also the advice (first revisions). Turns that do not branch have the group that
   ``SampleConfig`` says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from math import prod
from statistics import fmean
from typing import Literal, get_args

import numpy as np

from waltz_env.algorithms.protocols import Sample
from waltz_env.branches import ALONE, Branches
from waltz_env.checks import check_choice, check_number, check_settings
from waltz_env.errors import UsageError
from waltz_env.rewards import RewardWeights, score, setup
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK, AgentID, Completion, Labels, Trajectory

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
        group: which samples of a turn that does not branch share a baseline, always within one agent and turn.
            ``"prompt"``: samples of the same prompt. ``"labels"``: samples that act on a latest response with the same
            labels (c_t for the critique f_t, c_{t-1} for the revision c_t; all drafts are one group, since no response
            precedes them). The latter keeps an agent from being punished for a state it did not cause: without it, at
            lambda 0, a satisfactory draft always pays the feedback agent less than average, whatever it flags.
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
    branches: Branches = ALONE,
) -> list[Sample]:
    """The training samples of one agent, in the order of the games.

    Games without a judgement of every response are left out, and so are turns in which the agent sampled no token. A
    turn that several games share gives one sample.

    Args:
        games: finished games.
        agent: the agent whose turns are taken.
        weights: weights of the feedback agent's reward, or the name of a set-up.
        rng: draws the turn where ``config.turns`` is ``"one"``.
        config: which turns are taken and which samples share a baseline.
        branches: the branches that the games were played with.

    Raises:
        UsageError: the agent is unknown, gave completions without token ids and log-probabilities, or is to learn from
            one random turn of each game where games share turns.
    """
    check_choice("agent", agent, AGENTS)
    check_turns(config, branches)
    weights = setup(weights)
    judged = [game for game in games if game.judged]
    rewards_of = [score(game, weights).of(agent) for game in judged]
    if agent == FEEDBACK:
        rewards_of = _over_revisions(judged, rewards_of)
    result, told = [], set()
    for game, rewards in zip(judged, rewards_of, strict=True):
        completions = _completions(game, agent)
        turns = _turns(len(completions), config.responses if agent == CONVERSATION else "both")
        if config.turns == "one" and len(turns) > 1:
            turns = [_draw(turns, agent, rng, config.draft_probability)]
        for turn in turns:
            if game.branch:
                shared = turn, game.branch[: _position(agent, turn) + 1]
                if shared in told:
                    continue
                told.add(shared)
            if completions[turn].token_ids != ():
                group = (agent, turn, *_group(game, agent, turn, config.group, branches))
                sample = _sample(completions[turn], agent, rewards[turn], group)
                result.append(replace(sample, agent=agent, turn=turn, state=_state(game, agent, turn)))
    return result


def check_turns(config: SampleConfig, branches: Branches) -> None:
    """Checks that every turn is taken where games share turns: one that is shared has no single game to be drawn from.

    Raises:
        UsageError: it is not.
    """
    if config.turns == "one" and prod(branches[1:]) > 1:
        raise UsageError(
            f"branches {branches!r} make games that share turns, and turns='one' draws one turn of each game. Use "
            "turns='all' (--loop.samples.turns all)."
        )


def compares(agent: AgentID, config: SampleConfig, branches: Branches) -> bool:
    """Whether each turn of the first round that ``agent`` learns from can have other samples in its group."""
    if config.group == "labels":
        return True
    drafts, critiques, _ = branches
    if agent == FEEDBACK:
        return drafts * critiques > 1
    return drafts > 1 or (config.responses == "revisions" and prod(branches) > 1)


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


def _position(agent: AgentID, turn: int) -> int:
    """0 for c_0, 1 for f_0, 2 for c_1 and so on."""
    return 2 * turn + (agent == FEEDBACK)


def _over_revisions(games: Sequence[Trajectory], rewards_of: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Each critique's reward in each game; that of a first critique is its mean over the games that share it."""
    shared: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for game, rewards in zip(games, rewards_of, strict=True):
        if game.branch and rewards:
            shared[game.branch[:2]].append(rewards[0])
    return [
        (fmean(shared[game.branch[:2]]), *rewards[1:]) if game.branch and rewards else rewards
        for game, rewards in zip(games, rewards_of, strict=True)
    ]


def _group(game: Trajectory, agent: AgentID, turn: int, group: Group, branches: Branches) -> tuple[Hashable, ...]:
    position = _position(agent, turn)
    if position < len(branches) and branches[position] > 1:
        return _observed(game, agent, turn)
    if group == "prompt":
        return game.prompt.id, game.prompt.text
    return (_latest_labels(game, turn - 1 if agent == CONVERSATION else turn),)


def _observed(game: Trajectory, agent: AgentID, turn: int) -> tuple[Hashable, ...]:
    """All that ``agent`` had seen before it acted in ``turn``: equal texts count as the same, wherever they came from.

    This is what ``Game.observe`` shows: of a critique, the advice alone.
    """
    prompt = game.prompt
    history = tuple((message["role"], message["content"]) for message in prompt.history)
    responses = game.responses[: turn if agent == CONVERSATION else turn + 1]
    advice = tuple(critique.feedback.advice for critique in game.critiques[:turn])
    return prompt.id, prompt.text, history, tuple(response.text for response in responses), advice


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
