"""One role's view as a Gymnasium environment."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests.games import BAD, BOMB, FINE, HOSTILE, PROMPTS, SAFE, UNSAFE, RandomSpeaker, Speaker, WordJudge
from waltz_env.errors import UsageError, UsageTypeError
from waltz_env.feedback import format_feedback
from waltz_env.protocols import Agent
from waltz_env.rewards import SETUPS, score
from waltz_env.scripted import ANSWER, REFUSAL, FollowAdvice
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK, AgentID
from waltz_env.wrappers import CHOICES, SingleAgentEnv

FLAG = format_feedback(UNSAFE, "Take it out.")
PASS = format_feedback(SAFE, "")
IDS = {CONVERSATION: "waltz_env/WaltzConversation-v0", FEEDBACK: "waltz_env/WaltzFeedback-v0"}


def texts(role: AgentID, partner: Agent, **settings: Any) -> SingleAgentEnv:
    return SingleAgentEnv(role, partner=partner, text=True, prompts=[BOMB], judge=WordJudge(), **settings)


@pytest.mark.parametrize("role", AGENTS)
@pytest.mark.parametrize("text", [False, True])
def test_it_keeps_gymnasium_s_protocol(role: AgentID, text: bool) -> None:
    check_env(SingleAgentEnv(role, text=text, max_rounds=2), skip_render_check=True)
    check_env(gymnasium.make(IDS[role], text=text).unwrapped)


def test_a_critique_is_paid_for_the_improvement_in_its_own_step() -> None:
    env = texts(FEEDBACK, Speaker(BAD, FINE))
    observation, info = env.reset()
    assert observation["active"] == 1
    assert observation["responses"] == (BAD,)
    assert info["labels"] == {"unsafe": True, "overrefuse": False}
    observation, reward, terminated, truncated, info = env.step(FLAG)
    assert reward == pytest.approx(0.65 + 0.25 + 0.1)
    assert terminated
    assert not truncated
    assert info["rewards"] == {"label": 1.0, "format": 1.0, "improvement": 1.0}
    assert info["labels"] == {"unsafe": False, "overrefuse": False}
    assert observation["responses"] == (BAD, FINE)
    assert info["trajectory"].final.text == FINE


def test_the_conversation_agent_drafts_and_revises() -> None:
    env = texts(CONVERSATION, Speaker(FLAG, FLAG), max_rounds=2)
    observation, _ = env.reset()
    assert (observation["responses"], observation["feedback"]) == ((), ())
    observation, reward, terminated, _, info = env.step(BAD)
    assert (reward, terminated, info["rewards"]) == (0.0, False, {"conversation": 0.0})
    assert info["labels"] == {"unsafe": True, "overrefuse": False}
    assert observation["feedback"] == ("Take it out.",)
    _, reward, terminated, _, _ = env.step(FINE)
    assert (reward, terminated) == (1.0, False)
    _, reward, terminated, _, _ = env.step(FINE)
    assert (reward, terminated) == (1.0, True)
    assert len(env.trajectory().responses) == 3


def test_a_partner_that_ends_the_game_ends_the_episode() -> None:
    env = texts(CONVERSATION, Speaker(PASS))
    env.reset()
    observation, reward, terminated, _, _ = env.step(FINE)
    assert (reward, terminated, observation["active"]) == (1.0, True, 0)
    assert len(env.trajectory().critiques) == 1
    with pytest.raises(UsageError, match="this one has ended"):
        env.step(FINE)


@pytest.mark.parametrize("role", AGENTS)
@pytest.mark.parametrize("weights", SETUPS)
@pytest.mark.parametrize("rounds", [1, 3])
def test_rewards_of_an_episode_add_up_to_the_score_of_its_game(role: AgentID, weights: str, rounds: int) -> None:
    env = SingleAgentEnv(
        role,
        partner=RandomSpeaker,
        text=True,
        prompts=PROMPTS,
        judge=WordJudge(),
        weights=weights,
        max_rounds=rounds,
    )
    own = RandomSpeaker(1)
    lengths = set()
    for seed in range(40):
        observation, _ = env.reset(seed=seed)
        total, steps, ended = 0.0, 0, False
        while not ended:
            observation, reward, ended, _, _ = env.step(own.act([observation])[0].text)
            total, steps = total + reward, steps + 1
        rewards = score(env.trajectory(), SETUPS[weights])
        assert total == pytest.approx(sum(rewards.of(role)))
        assert steps == len(rewards.of(role))
        lengths.add(steps)
    assert len(lengths) > 1 or (role == FEEDBACK and rounds == 1)


def test_a_seed_fixes_the_prompts_and_the_partners() -> None:
    def games() -> list[Any]:
        env = SingleAgentEnv(FEEDBACK)
        env.action_space.seed(0)
        ended = []
        for game in range(20):
            env.reset(seed=5 if game == 0 else None)
            ended.append(env.step(env.action_space.sample())[4]["trajectory"])
        return ended

    first, second = games(), games()
    assert first == second
    assert len({game.prompt.id for game in first}) > 10
    assert {game.responses[0].text for game in first} == {ANSWER, REFUSAL}


def test_one_prompt_meets_both_drafts_of_the_default_partner() -> None:
    env = SingleAgentEnv(FEEDBACK, text=True)
    env.reset(seed=0)
    drafts = {env.reset(options={"prompt": 0})[0]["responses"] for _ in range(20)}
    assert drafts == {(ANSWER,), (REFUSAL,)}


def test_the_default_partner_of_the_conversation_agent_knows_the_truth() -> None:
    env = SingleAgentEnv(CONVERSATION, prompts=[BOMB])
    env.reset()
    _, reward, ended, _, _ = env.step(1)  # an answer
    assert (reward, ended) == (0.0, False)
    _, reward, ended, _, _ = env.step(2)  # follow the advice
    assert (reward, ended) == (1.0, True)
    assert env.trajectory().final.text == REFUSAL


def test_what_it_sees_and_does_by_default_is_as_in_the_environment_of_both() -> None:
    env = SingleAgentEnv(FEEDBACK, partner=FollowAdvice(answers=1.0), prompts=[BOMB])
    observation, _ = env.reset()
    np.testing.assert_allclose(observation[:4], [1, 1, 0.5, 0])
    _, reward, *_ = env.step(1)  # unsafe, with advice to refuse
    assert reward == pytest.approx(1.0)
    assert env.action_space == gymnasium.spaces.Discrete(len(CHOICES[FEEDBACK]))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_any_text_is_an_action(text: str) -> None:
    for role, partner in ((FEEDBACK, Speaker(text, text)), (CONVERSATION, Speaker(text))):
        env = texts(role, partner)
        env.reset()
        observation, *_ = env.step(text)
        assert env.observation_space.contains(observation)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UsageError, match="Unknown role 'feedback'. Did you mean 'feedback_0'?"):
        SingleAgentEnv("feedback")
    with pytest.raises(UsageError, match="With max_rounds=0 'feedback_0' has no turn"):
        SingleAgentEnv(FEEDBACK, max_rounds=0)
    with pytest.raises(UsageError, match="leave `encoder` and `choices` out"):
        SingleAgentEnv(FEEDBACK, text=True, choices=[PASS])
    env = SingleAgentEnv(FEEDBACK)
    with pytest.raises(UsageError, match="call reset"):
        env.step(0)
    env.reset()
    with pytest.raises(UsageError, match="index from 0 to 2; got 3"):
        env.step(3)
    env = texts(FEEDBACK, Speaker(BAD, FINE))
    env.reset()
    with pytest.raises(UsageTypeError, match="must be a string"):
        env.step(0)


def test_the_game_can_be_shown() -> None:
    env = SingleAgentEnv(FEEDBACK, render_mode="ansi")
    env.reset(seed=0)
    assert "-- response 0" in env.render()


# By name


@pytest.mark.parametrize("role", AGENTS)
def test_gymnasium_makes_it_by_name(role: AgentID) -> None:
    env = gymnasium.make(IDS[role], max_rounds=2, weights="B").unwrapped
    assert isinstance(env, SingleAgentEnv)
    assert (env.role, env.env.max_rounds, env.env.weights) == (role, 2, SETUPS["B"])


def test_a_name_that_says_its_module_needs_no_import() -> None:
    code = (
        "import sys, gymnasium; "
        "gymnasium.make('waltz_env:waltz_env/WaltzFeedback-v0', text=True).reset(); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
