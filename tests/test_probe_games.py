"""The probe games themselves, and what variants of the paper's learner do in them."""

from __future__ import annotations

from statistics import fmean

import pytest

from tests.learners import toy_config
from waltz_env.algorithms.probes.games import TOKEN_PROBES, final_reward, learn_to_waltz, learn_tokens
from waltz_env.algorithms.training.samples import Group
from waltz_env.rewards import score
from waltz_env.types import CONVERSATION, FEEDBACK, Trajectory

VARIANTS = {
    "token": toy_config("reinforce++", aggregation="token"),
    "group, penalty in the reward": toy_config("reinforce++", baseline="group"),
    "reuse": toy_config("reinforce++", epochs=2, minibatches=2),
    "one-step advantages": toy_config("ppo", gae_lambda=0.5),
}


def first_reward(games: list[Trajectory]) -> float:
    return fmean(score(game).conversation[0] for game in games)


def label_accuracy(games: list[Trajectory]) -> float:
    return fmean(score(game).label[0] for game in games)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_learn_a_target_that_depends_on_the_prompt(variant: str) -> None:
    curve = learn_tokens(VARIANTS[variant], TOKEN_PROBES["conditional target"])
    assert fmean(curve[-5:]) > 0.9


@pytest.mark.parametrize("name", TOKEN_PROBES)
def test_a_token_probe_is_not_solved_by_chance(name: str) -> None:
    curve = learn_tokens(toy_config("reinforce++", learning_rate=1e-4), TOKEN_PROBES[name])
    assert fmean(curve) < 0.4


@pytest.mark.parametrize("group", ["prompt", "labels"])
def test_feedback_helps_an_agent_that_cannot_know_better(group: Group) -> None:
    first, *_, last = learn_to_waltz(toy_config("reinforce++"), group=group)
    assert final_reward(first) < 0.65
    assert label_accuracy(first) < 0.45
    assert first_reward(last) < 0.8
    assert final_reward(last) > 0.9
    assert label_accuracy(last) > 0.9


def test_a_frozen_agent_is_helped_as_far_as_it_listens() -> None:
    """Stage 1: the conversation agent follows plain advice with probability e / (e + 1) = .73, up to small leaks."""
    history = learn_to_waltz(toy_config("reinforce++"), learning=[FEEDBACK], group="prompt")
    games = [game for step in history[-5:] for game in step]
    assert label_accuracy(games) > 0.9
    advised = [critique.feedback.advice != "" for game in games for _, critique, _ in game.revisions()]
    assert fmean(advised) > 0.8
    assert 0.65 < final_reward(games) < 0.95


def test_the_conversation_agent_alone_stays_at_chance() -> None:
    history = learn_to_waltz(toy_config("reinforce++"), learning=[CONVERSATION], group="prompt", steps=30)
    assert fmean(first_reward(games) for games in history[-5:]) == pytest.approx(0.5, abs=0.15)
