"""The wrappers under Stable-Baselines3 and SuperSuit. That they learn is shown by the examples' tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import supersuit
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env

import waltz_env
from tests.games import PROMPTS
from waltz_env.rewards import score
from waltz_env.types import AGENTS, AgentID
from waltz_env.wrappers import EncodedEnv, HashedNgrams, SingleAgentEnv


def vector(seed: int, copies: int = 3) -> Any:
    env: Any = EncodedEnv(waltz_env.make(prompts=PROMPTS), HashedNgrams(16))
    env = supersuit.pettingzoo_env_to_vec_env_v1(env)
    env = supersuit.concat_vec_envs_v1(env, copies, base_class="stable_baselines3")
    env.venv.reset(seed=seed)
    return env


@pytest.mark.parametrize("role", AGENTS)
def test_the_single_agent_views_pass_the_checks_of_stable_baselines3(role: AgentID) -> None:
    check_env(SingleAgentEnv(role, encoder=HashedNgrams(16)))


# Stable-Baselines3 asks every environment for pictures. Gymnasium says that there are none; training goes on.
@pytest.mark.filterwarnings("ignore:.*render_mode='rgb_array' that is not in the possible render_modes")
def test_a_name_is_all_that_stable_baselines3_needs() -> None:
    model = PPO("MlpPolicy", "waltz_env/WaltzFeedback-v0", n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    model.learn(32)
    assert model.num_timesteps == 32


def test_supersuit_shows_both_agents_of_each_copy_and_keeps_the_games() -> None:
    env = vector(seed=0)
    assert env.num_envs == 6
    assert env.reset().shape == (6, 4 + 3 * 16)
    returns, games = np.zeros(6), []
    for step in range(60):
        rng = np.random.default_rng(step)
        _, rewards, dones, infos = env.step(rng.integers(3, size=6))
        returns += rewards
        for i in np.flatnonzero(dones):
            game = infos[i | 1]["trajectory"]  # the feedback agent's, in every second place
            assert returns[i] == pytest.approx(sum(score(game).of(AGENTS[i % 2])))
            returns[i] = 0.0
            games.append(game)
    assert len(games) >= 40
    assert {len(game.responses) for game in games} == {1, 2}


def test_copies_play_different_games_that_a_seed_fixes() -> None:
    def prompts(seed: int) -> list[list[str]]:
        env = vector(seed, copies=2)
        env.reset()
        drawn: list[list[str]] = [[], []]
        for _ in range(40):
            _, _, dones, infos = env.step(np.zeros(4, int))  # refuse; flag nothing
            for i in np.flatnonzero(dones)[1::2]:
                drawn[i // 2].append(infos[i]["trajectory"].prompt.id)
        return drawn

    first, second = prompts(seed=0), prompts(seed=0)
    assert first == second
    assert first[0] != first[1]
    assert first != prompts(seed=1)
