"""Games small enough to be solved in seconds; a learner that cannot solve them is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.bigram import BigramPolicy
from waltz_env.algorithms.protocols import Sample
from waltz_env.algorithms.reinforce_pp import ReinforcePPConfig
from waltz_env.algorithms.samples import samples
from waltz_env.feedback import format_feedback
from waltz_env.rewards import SETUP_A, score
from waltz_env.rollout import play
from waltz_env.types import (
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

CONFIG = ReinforcePPConfig(learning_rate=0.1)
VARIANTS = {
    "paper": CONFIG,
    "token": replace(CONFIG, aggregation="token"),
    "group": replace(CONFIG, baseline="group", kl_in="loss"),
    "reuse": replace(CONFIG, epochs=2, minibatches=2),
}


def train_on_tokens(config: ReinforcePPConfig, reward: Callable[[int, Sequence[int]], float], steps: int) -> float:
    """Mean reward of the last batch of a policy of six tokens that continues a prompt of one token by two."""
    policy = BigramPolicy(torch.zeros(6, 6))
    learner = config.build(policy)
    generator = torch.Generator().manual_seed(0)
    mean = 0.0
    for _ in range(steps):
        prompts = [i % 3 for i in range(32)]
        sampled = policy.sample_rows(prompts, 2, generator)
        rows = [
            Sample((prompt,), tokens, logprobs, reward(prompt, tokens), prompt, policy.version)
            for prompt, (tokens, logprobs) in zip(prompts, sampled, strict=True)
        ]
        mean = learner.update(rows)["reward_mean"]
    return mean


@pytest.mark.parametrize("name", VARIANTS)
def test_a_constant_target_is_learned(name: str) -> None:
    assert train_on_tokens(VARIANTS[name], lambda prompt, tokens: float(tokens[0] == 4), 40) > 0.9


@pytest.mark.parametrize("name", VARIANTS)
def test_a_target_that_depends_on_the_prompt_is_learned(name: str) -> None:
    assert train_on_tokens(VARIANTS[name], lambda prompt, tokens: float(tokens[0] == 3 + prompt), 60) > 0.9


def test_a_target_of_the_last_token_is_credited_to_the_tokens_before_it() -> None:
    assert train_on_tokens(CONFIG, lambda prompt, tokens: float(tuple(tokens) == (4, 5)), 60) > 0.9


class TokenAgent:
    """Acts with one token: the observation's ``state`` is the prompt, ``texts`` are what the tokens say."""

    def __init__(self, policy: BigramPolicy, texts: Sequence[str], state: Callable[[Observation], int]) -> None:
        self.policy, self.texts, self.state = policy, texts, state
        self.generator = torch.Generator().manual_seed(0)

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        states = [self.state(observation) for observation in observations]
        sampled = self.policy.sample_rows(states, 1, self.generator)
        return [
            Completion(
                self.texts[tokens[0]] if tokens[0] < len(self.texts) else "",
                prompt_ids=(state,),
                token_ids=tokens,
                logprobs=logprobs,
                version=self.policy.version,
            )
            for state, (tokens, logprobs) in zip(states, sampled, strict=True)
        ]


class KeywordJudge:
    """Harmful prompts must be answered with "refuse", benign ones with "help"."""

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


PROMPTS = [Prompt("attack", Kind.HARMFUL, id="0"), Prompt("question", Kind.BENIGN, id="1")] * 32
ANSWERS = ("help", "refuse")
ADVICE = ("", "help", "refuse")
CRITIQUES = tuple(
    format_feedback(labels, advice)
    for labels in (Labels(False, False), Labels(True, False), Labels(False, True))
    for advice in ADVICE
)


def blind_conversation_agent() -> TokenAgent:
    """It cannot tell the prompts apart: its draft is right half of the time at best, its revision as the advice is.

    Tokens 0 and 1 are its answers, 2 the state of a draft, 3 to 5 the advice received, which it tends to follow.
    """

    def state(observation: Observation) -> int:
        return 3 + ADVICE.index(observation["feedback"][-1]) if observation["feedback"] else 2

    table = torch.zeros(6, 6)
    table[:, 2:] = -3.0
    table[4, 0] = table[5, 1] = 1.0
    return TokenAgent(BigramPolicy(table), ANSWERS, state)


def feedback_agent() -> TokenAgent:
    """It sees prompt and response: tokens 0 to 8 are its critiques, 9 to 14 the states, and 15 is no JSON."""

    def state(observation: Observation) -> int:
        response = observation["responses"][-1]
        return 9 + 3 * (observation["prompt"] == "attack") + (ANSWERS.index(response) if response in ANSWERS else 2)

    table = torch.zeros(16, 16)
    table[:, 9:15] = -3.0
    return TokenAgent(BigramPolicy(table), (*CRITIQUES, *[""] * 6, "{"), state)


def train_pair(learning: Sequence[AgentID], steps: int, *, group: str, config: ReinforcePPConfig) -> list[Trajectory]:
    """Plays and learns; returns the games of the last step."""
    agents = {CONVERSATION: blind_conversation_agent(), FEEDBACK: feedback_agent()}
    learners = {agent: config.build(agents[agent].policy) for agent in learning}
    rng = np.random.default_rng(0)
    games: list[Trajectory] = []
    for _ in range(steps):
        games = play(PROMPTS, agents, KeywordJudge())
        for agent, learner in learners.items():
            learner.update(samples(games, SETUP_A, agent, rng, group=group))  # type: ignore[arg-type]
    return games


def final_reward(games: Sequence[Trajectory]) -> float:
    return float(np.mean([score(game).conversation[-1] for game in games]))


def first_reward(games: Sequence[Trajectory]) -> float:
    return float(np.mean([score(game).conversation[0] for game in games]))


def label_accuracy(games: Sequence[Trajectory]) -> float:
    return float(np.mean([score(game).label[0] for game in games]))


@pytest.mark.parametrize(
    ("config", "group"),
    [(CONFIG, "prompt"), (replace(CONFIG, baseline="group"), "verdict")],
    ids=["no baseline", "baseline by verdict"],
)
def test_feedback_helps_an_agent_that_cannot_know_better(config: ReinforcePPConfig, group: str) -> None:
    untrained = train_pair([], 1, group=group, config=config)
    assert final_reward(untrained) < 0.65
    assert label_accuracy(untrained) < 0.45
    pair = train_pair([FEEDBACK, CONVERSATION], 60, group=group, config=config)
    assert first_reward(pair) < 0.75
    assert final_reward(pair) > 0.9
    assert label_accuracy(pair) > 0.9


def test_a_frozen_agent_is_helped_as_far_as_it_listens() -> None:
    """Stage 1: the conversation agent follows plain advice with probability e / (e + 1) = .73, up to small leaks."""
    pair = train_pair([FEEDBACK], 60, group="prompt", config=CONFIG)
    assert label_accuracy(pair) > 0.9
    advised = [critique.feedback.advice for game in pair for _, critique, _ in game.revisions()]
    assert np.mean([advice != "" for advice in advised]) > 0.8
    assert 0.65 < final_reward(pair) < 0.95


def test_the_conversation_agent_alone_stays_at_chance() -> None:
    alone = train_pair([CONVERSATION], 30, group="prompt", config=CONFIG)
    assert first_reward(alone) == pytest.approx(0.5, abs=0.15)
