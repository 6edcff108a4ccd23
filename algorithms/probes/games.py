"""Games that a sound learner solves in seconds; a learner that cannot solve them is wrong.

Three are about tokens alone: a constant target, a target that depends on the prompt, and a target of two tokens that is
rewarded at the end. The fourth is the game itself with one token per turn: the conversation agent cannot tell harmful
prompts from benign ones, the feedback agent can, and they succeed only together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from accelerate import Accelerator

from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.protocols import STATE, LearnerConfig, Sample
from waltz_env.algorithms.training.learners import build_learners, update_learners
from waltz_env.algorithms.training.samples import Group, SampleConfig, samples
from waltz_env.algorithms.training.stages import Stage
from waltz_env.feedback import format_feedback
from waltz_env.rewards import SETUP_A, score
from waltz_env.rollout import play
from waltz_env.types import (
    AGENTS,
    CONVERSATION,
    FEEDBACK,
    AgentID,
    Completion,
    Judgement,
    Kind,
    Labels,
    Observation,
    Prompt,
    Trajectory,
)

Reward = Callable[[int, tuple[int, ...]], float]
"""From the prompt's only token and the tokens after it to a reward."""

_ROWS = 32
_TOKENS = 6


@dataclass(frozen=True, slots=True)
class TokenProbe:
    """A game in which a policy of six tokens continues a prompt (token 0, 1 or 2) with two tokens.

    Attributes:
        reward: reward of the two tokens.
        steps: number of updates in which a sound learner solves the game.
    """

    reward: Reward
    steps: int


TOKEN_PROBES: Mapping[str, TokenProbe] = {
    "constant target": TokenProbe(lambda prompt, tokens: float(tokens[0] == 4), 40),
    "conditional target": TokenProbe(lambda prompt, tokens: float(tokens[0] == 3 + prompt), 60),
    "delayed target": TokenProbe(lambda prompt, tokens: float(tokens == (4, 5)), 60),
}


def learn_tokens(config: LearnerConfig, probe: TokenProbe, *, seed: int = 0) -> list[float]:
    """Mean reward per step while ``config``'s learner learns ``probe``."""
    policy = ToyPolicy(torch.zeros(_TOKENS, _TOKENS))
    learner = config.build(policy, Accelerator(cpu=True))
    generator = torch.Generator().manual_seed(seed)
    prompts = [i % 3 for i in range(_ROWS)]
    curve = []
    for _ in range(probe.steps):
        sampled = policy.sample([[prompt] for prompt in prompts], 2, generator=generator)
        rows = [
            Sample(
                (prompt,),
                tokens,
                logprobs,
                probe.reward(prompt, tokens),
                prompt,
                policy.version,
                state=(0.0,) * len(STATE),
            )
            for prompt, (tokens, logprobs) in zip(prompts, sampled, strict=True)
        ]
        curve.append(fmean(row.reward for row in rows))
        learner.update(rows)
    return curve


PROMPTS = [Prompt("attack", Kind.HARMFUL, id="0"), Prompt("question", Kind.BENIGN, id="1")] * 16
ANSWERS = ("help", "refuse")
ADVICE = ("", "help", "refuse")
CRITIQUES = tuple(
    format_feedback(labels, advice)
    for labels in (Labels(False, False), Labels(True, False), Labels(False, True))
    for advice in ADVICE
)
SAID = (*ANSWERS, *CRITIQUES, "{")
"""What the first tokens say; the last one is not valid JSON. The tokens after them are what an agent may see.

In order: two answers; nine critiques (three pairs of flags, each with three pieces of advice); the broken one; then
what an agent may see: that a draft is wanted, one of three pieces of advice, or, for the feedback agent, one of two
prompts with one of three responses."""
_DRAFT = len(SAID)
_ADVISED = _DRAFT + 1
_SHOWN = _ADVISED + len(ADVICE)
_VOCABULARY = _SHOWN + 2 * (len(ANSWERS) + 1)


class KeywordJudge:
    """A judge for which harmful prompts must be answered with "refuse" and benign ones with "help"."""

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
        return [
            Judgement(
                Labels(
                    unsafe=prompt.harmful and response != "refuse",
                    overrefuse=not prompt.harmful and response != "help",
                ),
                "keyword",
            )
            for prompt, response in zip(prompts, responses, strict=True)
        ]


class TokenAgent:
    """An agent that sees one token and answers with one token. The conversation agent does not see the prompt."""

    def __init__(self, policy: ToyPolicy, *, seed: int = 0) -> None:
        self.policy = policy
        self._generator = torch.Generator().manual_seed(seed)

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        seen = [_seen(observation) for observation in observations]
        if not seen:
            return []
        sampled = self.policy.sample([[token] for token in seen], 1, generator=self._generator)
        return [
            Completion(
                SAID[tokens[0]] if tokens[0] < len(SAID) else "",
                prompt_ids=(token,),
                token_ids=tokens,
                logprobs=logprobs,
                version=self.policy.version,
            )
            for token, (tokens, logprobs) in zip(seen, sampled, strict=True)
        ]


def _seen(observation: Observation) -> int:
    if observation["agent"] == CONVERSATION:
        return _ADVISED + ADVICE.index(observation["feedback"][-1]) if observation["feedback"] else _DRAFT
    response = observation["responses"][-1]
    answer = ANSWERS.index(response) if response in ANSWERS else len(ANSWERS)
    return _SHOWN + (len(ANSWERS) + 1) * (observation["prompt"] == "attack") + answer


def token_agents(*, shared: bool = False, seed: int = 0) -> dict[AgentID, TokenAgent]:
    """Untrained agents that mostly say what belongs to their role, and mostly follow plain advice.

    Args:
        shared: whether one policy plays both roles.
        seed: seed of what the agents sample.
    """
    answers, critiques = slice(0, len(ANSWERS)), slice(len(ANSWERS), len(SAID))
    table = torch.full((_VOCABULARY, _VOCABULARY), -4.0)
    table[_DRAFT:_SHOWN, answers] = 0.0
    table[_SHOWN:, critiques] = 0.0
    for i, advice in enumerate(ADVICE):
        if advice:
            table[_ADVISED + i, ANSWERS.index(advice)] = 1.0
    policies = [ToyPolicy(table)] * 2 if shared else [ToyPolicy(table), ToyPolicy(table)]
    return {
        agent: TokenAgent(policy, seed=2 * seed + i)
        for i, (agent, policy) in enumerate(zip(AGENTS, policies, strict=True))
    }


def learn_to_waltz(
    config: LearnerConfig,
    *,
    steps: int = 60,
    learning: Sequence[AgentID] = (FEEDBACK, CONVERSATION),
    shared: bool = False,
    group: Group = "labels",
    seed: int = 0,
) -> list[list[Trajectory]]:
    """The games of each step while ``config``'s learners learn the fourth game.

    Args:
        config: settings of each agent's learner.
        steps: number of updates.
        learning: agents that learn.
        shared: whether one policy plays both roles.
        group: which samples share a baseline, see ``samples``.
        seed: seeds everything random.
    """
    agents = token_agents(shared=shared, seed=seed)
    stage = Stage("probe", steps, dict.fromkeys(learning, config))
    learners = build_learners(stage, agents, Accelerator(cpu=True))
    rng = np.random.default_rng(seed)
    config_of_samples = SampleConfig(group=group)
    history = []
    for _ in range(steps):
        games = play(PROMPTS, agents, judge=KeywordJudge())
        drawn = {agent: samples(games, agent, weights=SETUP_A, rng=rng, config=config_of_samples) for agent in learners}
        update_learners(learners, drawn)
        history.append(games)
    return history


def final_reward(games: Sequence[Trajectory]) -> float:
    """Mean R_c of the final responses."""
    return fmean(score(game).conversation[-1] for game in games)
