"""Examples for RLlib, TorchRL and Tianshou; `make test-interop` runs them in an environment of their own."""

from __future__ import annotations

from torchrl.envs.utils import check_env_specs

from tests.example import load
from tests.interop.returns import assert_learned


def test_rllib_trains_one_policy_for_each_agent() -> None:
    assert_learned(load("rllib_ppo").main())


def test_torchrl_trains_both_agents_through_its_own_wrapper() -> None:
    assert_learned(load("torchrl_ppo").main())


def test_torchrl_s_environment_of_texts_keeps_torchrl_s_protocol_and_learns() -> None:
    example = load("torchrl_text")
    check_env_specs(example.TextGame())
    first, last = example.main()
    assert last > first + 0.15


def test_torchrl_keeps_texts_and_observations_as_they_are() -> None:
    example = load("torchrl_text")
    env = example.TextGame()
    env.set_seed(0)
    game = env.rollout(10, example.policy(example.Critic(), example.FollowAdvice(0.9, seed=0)))
    seen = [step["observation"] for step in game]
    assert [each["agent"] for each in seen[:2]] == ["conversation_0", "feedback_0"]
    assert seen[1]["responses"] == (game[0]["action"],)
    assert game["next", "reward"].shape == (len(game), 2)


def test_tianshou_trains_both_agents_in_turns() -> None:
    assert_learned(load("tianshou_ppo").main())
