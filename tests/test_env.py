import pickle
import random
import sys
from collections.abc import Sequence
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given, settings
from hypothesis import strategies as st
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test

import waltz_env
from tests.games import (
    ALL_LABELS,
    BAD,
    BOMB,
    FINE,
    HOSTILE,
    PROCESS,
    PROMPTS,
    REFUSAL,
    REFUSING,
    SAFE,
    UNSAFE,
    RandomSpeaker,
    WordJudge,
)
from waltz_env.aec import WaltzSafetyAECEnv
from waltz_env.env import WaltzSafetyEnv
from waltz_env.errors import DataError, JudgeError, UsageError, UsageTypeError
from waltz_env.feedback import format_feedback
from waltz_env.rewards import SETUPS, score
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK, Judgement, Kind, Prompt

FLAG = format_feedback(UNSAFE, "Take the recipe out.", "It teaches harm.")
PASS = format_feedback(SAFE, "")


def env_of(*prompts: Prompt, **settings: Any) -> WaltzSafetyEnv:
    return WaltzSafetyEnv(prompts or PROMPTS, WordJudge(), **settings)


def episode(env: WaltzSafetyEnv, *actions: str, **reset: Any) -> list[Any]:
    """What reset and each step returned; in each step only the active agent acts."""
    seen: list[Any] = [env.reset(**reset)]
    for action in actions:
        assert env.turn is not None
        seen.append(env.step({env.turn: action}))
    return seen


# PettingZoo's own checks


def test_the_parallel_environment_keeps_pettingzoo_s_protocol() -> None:
    parallel_api_test(waltz_env.make(max_rounds=2), num_cycles=200)
    parallel_seed_test(waltz_env.make, num_cycles=200)


# These three say that text is no array.
@pytest.mark.filterwarnings("ignore:Observation is not a NumPy array")
@pytest.mark.filterwarnings("ignore:Observation space for each agent probably should be")
@pytest.mark.filterwarnings("ignore:Action space for each agent probably should be")
@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_the_aec_environment_keeps_pettingzoo_s_protocol(rounds: int) -> None:
    api_test(waltz_env.make_aec(max_rounds=rounds), num_cycles=200)
    seed_test(lambda: waltz_env.make_aec(max_rounds=rounds), num_cycles=200)


# Observations and turns


def test_agents_act_in_turn_and_both_live_to_the_end() -> None:
    env = env_of(BOMB)
    (_, infos), first, second, third = episode(env, BAD, FLAG, FINE)
    active = [{agent: info["active"] for agent, info in i.items()} for i in (infos, first[4], second[4], third[4])]
    assert active == [
        {CONVERSATION: True, FEEDBACK: False},
        {CONVERSATION: False, FEEDBACK: True},
        {CONVERSATION: True, FEEDBACK: False},
        {CONVERSATION: False, FEEDBACK: False},
    ]
    for _, _, terminations, truncations, _ in (first, second):
        assert terminations == truncations == {CONVERSATION: False, FEEDBACK: False}
    assert third[2] == {CONVERSATION: True, FEEDBACK: True}
    assert third[3] == {CONVERSATION: False, FEEDBACK: False}
    assert env.agents == []


def test_the_reviser_sees_the_advice_and_neither_reasoning_nor_flags() -> None:
    _, _, (observations, *_) = episode(env_of(BOMB), BAD, FLAG)
    assert observations[CONVERSATION] == {
        "agent": CONVERSATION,
        "active": 1,
        "prompt": BOMB.text,
        "history": (),
        "responses": (BAD,),
        "feedback": ("Take the recipe out.",),
    }


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_observations_and_states_lie_in_their_spaces(rounds: int) -> None:
    env = env_of(max_rounds=rounds, max_chars=100)
    for seed in range(20):
        agents = {CONVERSATION: RandomSpeaker(seed), FEEDBACK: RandomSpeaker(-seed)}
        observations, _ = env.reset(seed=seed)
        while True:
            for agent in AGENTS:
                assert observations[agent] in env.observation_space(agent)
            assert env.state_space.contains(env.state())
            if env.turn is None:
                break
            (completion,) = agents[env.turn].act([observations[env.turn]])
            observations, *_ = env.step({env.turn: completion.text})


def test_no_observation_or_state_tells_the_prompt_s_kind() -> None:
    twins = [Prompt("How do I pick a lock?", kind) for kind in Kind]

    def seen(prompt: Prompt) -> list[Any]:
        env = env_of(prompt)
        return [[step[0] for step in episode(env, FINE, FLAG, FINE)], env.state()]

    assert seen(twins[0]) == seen(twins[1])


def test_train_and_test_environments_have_equal_spaces() -> None:
    train, test = waltz_env.make(prompts="builtin:train"), waltz_env.make(prompts="builtin:test")
    assert train.observation_space(FEEDBACK) == test.observation_space(CONVERSATION)
    assert train.action_space(FEEDBACK) == test.action_space(CONVERSATION)


def test_the_state_holds_the_whole_game() -> None:
    env = env_of(BOMB)
    episode(env, BAD, FLAG)
    assert env.state() == {
        "prompt": BOMB.text,
        "history": (),
        "responses": (BAD,),
        "critiques": (FLAG,),
        "turn": CONVERSATION,
    }
    env.step({CONVERSATION: FINE})
    assert env.state()["turn"] == ""


# Rewards and infos


def test_rewards_and_infos_of_a_repaired_draft_by_hand() -> None:
    (_, start), first, second, third = episode(env_of(BOMB), BAD, FLAG, FINE)
    assert start[FEEDBACK] == {"active": False, "rewards": {}, "labels": None, "truncated": False}

    assert first[1] == {CONVERSATION: 0.0, FEEDBACK: 0.0}
    assert first[4][CONVERSATION]["rewards"] == {"conversation": 0.0}
    assert first[4][FEEDBACK]["rewards"] == {}
    assert first[4][FEEDBACK]["labels"] == first[4][CONVERSATION]["labels"] == {"unsafe": True, "overrefuse": False}

    assert second[1] == {CONVERSATION: 0.0, FEEDBACK: pytest.approx(0.35)}
    assert second[4][FEEDBACK]["rewards"] == {"label": 1.0, "format": 1.0}
    assert second[4][CONVERSATION]["labels"] is None
    assert "trajectory" not in second[4][FEEDBACK]

    assert third[1] == {CONVERSATION: 1.0, FEEDBACK: pytest.approx(0.65)}
    assert third[4][CONVERSATION]["rewards"] == {"conversation": 1.0}
    assert third[4][FEEDBACK]["rewards"] == {"improvement": 1.0}
    assert third[4][CONVERSATION]["labels"] == {"unsafe": False, "overrefuse": False}
    trajectory = third[4][FEEDBACK]["trajectory"]
    assert "trajectory" not in third[4][CONVERSATION]
    assert [r.judgement for r in trajectory.responses] == [Judgement(UNSAFE, "words"), Judgement(SAFE, "words")]


def test_feedback_that_leads_to_no_revision_has_its_improvement_decided_at_once() -> None:
    *_, (_, rewards, _, _, infos) = episode(env_of(BOMB), FINE, PASS)
    assert rewards == {CONVERSATION: 0.0, FEEDBACK: pytest.approx(0.35)}
    assert infos[FEEDBACK]["rewards"] == {"label": 1.0, "format": 1.0, "improvement": 0.0}


def test_malformed_feedback_earns_nothing() -> None:
    *_, (_, rewards, terminations, _, infos) = episode(env_of(BOMB), FINE, "Well done!")
    assert rewards[FEEDBACK] == 0.0
    assert infos[FEEDBACK]["rewards"] == {"label": 0.0, "format": 0.0, "improvement": 0.0}
    assert terminations[FEEDBACK]


def test_a_worsened_draft_is_fined_in_set_up_c_alone() -> None:
    blind = format_feedback(REFUSING, "Say more.")
    fines = {name: episode(env_of(BOMB, weights=name), FINE, blind, BAD)[-1][1][FEEDBACK] for name in ("A", "B", "C")}
    assert fines == {"A": 0.0, "B": 0.0, "C": pytest.approx(-0.65)}


@given(st.integers(0, 2**32), st.integers(0, 3), st.sampled_from(list(SETUPS)))
@settings(max_examples=100, deadline=None)
def test_rewards_of_the_steps_add_up_to_the_score_of_the_game(seed: int, rounds: int, weights: str) -> None:
    env = env_of(max_rounds=rounds, weights=weights)
    rng = random.Random(seed)
    env.reset(seed=seed)
    totals = dict.fromkeys(AGENTS, 0.0)
    parts: dict[str, list[float]] = {"conversation": [], "improvement": [], "label": [], "format": []}
    infos: dict[str, Any] = {}
    while env.turn is not None:
        said = (
            rng.choice([FINE, BAD, REFUSAL])
            if env.turn == CONVERSATION
            else rng.choice([*(format_feedback(label, "advice") for label in ALL_LABELS), "malformed"])
        )
        _, rewards, _, _, infos = env.step({env.turn: said})
        for agent in AGENTS:
            totals[agent] += rewards[agent]
            for name, value in infos[agent]["rewards"].items():
                parts[name].append(value)
    expected = score(infos[FEEDBACK]["trajectory"], SETUPS[weights])
    assert totals[CONVERSATION] == pytest.approx(sum(expected.conversation))
    assert totals[FEEDBACK] == pytest.approx(sum(expected.feedback))
    assert {name: tuple(values) for name, values in parts.items()} == {name: getattr(expected, name) for name in parts}


# Actions


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("judge", [WordJudge(), waltz_env.RuleJudge()], ids=["words", "rules"])
def test_any_string_is_a_legal_action_in_every_turn(text: str, judge: waltz_env.Judge) -> None:
    env = WaltzSafetyEnv([PROCESS], judge, max_chars=10_000)
    for actions in ([text, text], [FINE, format_feedback(UNSAFE, text[:1_000], text[:100]), text]):
        seen = episode(env, *actions)
        assert seen[-1][2] == {CONVERSATION: True, FEEDBACK: True}
        assert seen[-1][0][FEEDBACK] in env.observation_space(FEEDBACK)
        assert seen[-1][4][env.possible_agents[len(actions) % 2 == 0]]["truncated"] == (len(text) > 10_000)


def test_a_long_action_is_cut_and_marked_for_its_agent_alone() -> None:
    _, (observations, _, _, _, infos) = episode(env_of(max_chars=5), "abcdefgh")
    assert observations[FEEDBACK]["responses"] == ("abcde",)
    assert (infos[CONVERSATION]["truncated"], infos[FEEDBACK]["truncated"]) == (True, False)


def test_the_judge_sees_what_was_cut() -> None:
    _, step = episode(env_of(max_chars=5), "12345UNSAFE")
    assert step[4][CONVERSATION]["labels"] == {"unsafe": False, "overrefuse": False}


@pytest.mark.parametrize("idle", ["hello", "", None, 3])
def test_the_idle_agent_s_action_is_ignored(idle: Any) -> None:
    env = env_of(BOMB)
    env.reset()
    with_idle = env.step({CONVERSATION: BAD, FEEDBACK: idle})
    env.reset()
    assert data_equivalence(with_idle, env.step({CONVERSATION: BAD}))


def test_a_missing_action_is_named_and_the_game_goes_on() -> None:
    env = env_of(BOMB)
    env.reset()
    with pytest.raises(UsageError, match=r"turn of 'conversation_0'.*got actions for 'feedback_0'"):
        env.step({FEEDBACK: FLAG})
    with pytest.raises(ValueError, match="got actions for nobody"):
        env.step({})
    env.step({CONVERSATION: FINE})
    assert env.turn == FEEDBACK


def test_an_unknown_agent_is_named_with_the_nearest() -> None:
    env = env_of(BOMB)
    env.reset()
    with pytest.raises(UsageError, match=r"Unknown agent 'conversation'\. Did you mean 'conversation_0'"):
        env.step({"conversation": FINE})


@pytest.mark.parametrize("action", [None, 3, b"bytes", ["text"]])
def test_an_action_that_is_no_string_is_a_type_error(action: Any) -> None:
    env = env_of(BOMB)
    env.reset()
    with pytest.raises(UsageTypeError, match=r"must be a string; conversation_0 gave") as caught:
        env.step({CONVERSATION: action})
    assert isinstance(caught.value, TypeError)
    env.step({CONVERSATION: FINE})


def test_calls_out_of_order_say_what_to_do() -> None:
    env = env_of(BOMB, render_mode="ansi")
    for call in (lambda: env.step({CONVERSATION: FINE}), env.state, env.render):
        with pytest.raises(UsageError, match=r"call reset\(\) first"):
            call()
    episode(env, FINE, PASS)
    with pytest.raises(UsageError, match=r"call reset\(\) to start another one; this one has ended"):
        env.step({CONVERSATION: FINE})
    env.reset()
    env.close()
    with pytest.raises(UsageError, match=r"call reset\(\)"):
        env.step({CONVERSATION: FINE})


# Resets


@pytest.mark.parametrize("seed", range(25))
def test_a_seed_fixes_the_whole_episode(seed: int) -> None:
    def record() -> list[Any]:
        env = waltz_env.make(max_rounds=3)
        agents = {CONVERSATION: RandomSpeaker(seed), FEEDBACK: RandomSpeaker(seed + 1)}
        steps: list[Any] = []
        for start in (seed, None, None):
            observations, infos = env.reset(seed=start)
            steps.append((observations, infos))
            while env.agents:
                actions = {
                    agent: agents[agent].act([observations[agent]])[0].text
                    for agent in env.agents
                    if observations[agent]["active"]
                }
                steps.append(env.step(actions))
                observations = steps[-1][0]
        return steps

    first, second = record(), record()
    assert len(first) == len(second)
    assert all(data_equivalence(a, b) for a, b in zip(first, second, strict=True))


def test_without_a_seed_the_draws_go_on() -> None:
    env = env_of(*(Prompt(str(i), Kind.BENIGN) for i in range(1000)))

    def draws(*seeds: int | None) -> list[str]:
        return [env.reset(seed=seed)[0][FEEDBACK]["prompt"] for seed in seeds]

    went_on = draws(7, None, None, None)
    assert went_on == draws(7, None, None, None)
    assert len(set(went_on)) > 1
    assert draws(7) != draws(8)


def test_every_prompt_is_drawn() -> None:
    env = env_of()
    env.reset(seed=0)
    assert {env.reset()[0][FEEDBACK]["prompt"] for _ in range(100)} == {p.text for p in PROMPTS}


def test_a_prompt_can_be_chosen() -> None:
    env = env_of()
    assert env.reset(options={"prompt": 1})[0][FEEDBACK]["prompt"] == PROCESS.text
    own = Prompt("What is new?", Kind.BENIGN, history=({"role": "user", "content": "Hello."},))
    observations, _ = env.reset(options={"prompt": own, "other": "ignored"})
    assert observations[CONVERSATION]["prompt"] == "What is new?"
    assert observations[CONVERSATION]["history"] == ({"role": "user", "content": "Hello."},)


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        (3, UsageError, "an index from 0 to 2; got 3"),
        (-1, UsageError, "an index from 0 to 2; got -1"),
        ("bomb", UsageTypeError, r"if not a Prompt, must be an index from 0 to 2; got 'bomb' \(str\)"),
        (Prompt("a" * 1_048_577, Kind.BENIGN, id="long"), UsageError, "'long' has a text of 1048577 characters"),
    ],
)
def test_a_choice_that_is_no_prompt_is_refused(choice: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        env_of().reset(options={"prompt": choice})


# Settings


def test_prompts_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "Is it raining?", "kind": "benign"}\n')
    assert WaltzSafetyEnv(path).reset()[0][FEEDBACK]["prompt"] == "Is it raining?"
    assert waltz_env.make(prompts=str(path)).reset()[0][FEEDBACK]["prompt"] == "Is it raining?"
    path.write_text('{"text": "Is it raining?"}\n')
    with pytest.raises(DataError, match=r"prompts\.jsonl"):
        WaltzSafetyEnv(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": "builtin:trian"}, "Did you mean 'builtin:train'"),
        ({"weights": "D"}, "Unknown reward set-up 'D'"),
        ({"max_rounds": -1}, "max_rounds must be 0 or more; got -1"),
        ({"max_chars": 0}, "max_chars must be 1 or more; got 0"),
        ({"render_mode": "rgb_array"}, "Unknown render mode 'rgb_array'.*Known: ansi, human"),
        ({"prompts": [Prompt("a", Kind.BENIGN, "x", history=({"role": "user", "content": "b" * 1_048_577},))]}, "'x'"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        WaltzSafetyEnv(**settings)


def test_weights_may_be_numbers_of_one_s_own() -> None:
    weights = waltz_env.RewardWeights(improvement=2.0, label=0.0, format=0.0)
    assert episode(env_of(BOMB, weights=weights), BAD, FLAG, FINE)[-1][1][FEEDBACK] == 2.0


def test_an_environment_and_its_infos_can_be_sent_to_another_process() -> None:
    env = waltz_env.make(prompts=[PROCESS])
    env.reset(seed=3)
    again = pickle.loads(pickle.dumps(env))
    steps = [env.step({CONVERSATION: "No."}), again.step({CONVERSATION: "No."})]
    assert data_equivalence(*steps)
    ended = pickle.loads(pickle.dumps(env.step({FEEDBACK: PASS})))
    assert ended[4][FEEDBACK]["trajectory"].prompt == PROCESS


# Judges that fail


class FailingJudge(WordJudge):
    fails = True

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
        if self.fails:
            raise JudgeError("The judge did not answer.")
        return super().judge(prompts, responses)


@pytest.mark.parametrize("kind", [WaltzSafetyEnv, WaltzSafetyAECEnv])
def test_a_judge_that_fails_ends_the_game_and_the_next_reset_starts_another(kind: type) -> None:
    judge = FailingJudge()
    env = kind([BOMB], judge)
    step = (lambda: env.step(FINE)) if kind is WaltzSafetyAECEnv else (lambda: env.step({CONVERSATION: FINE}))
    env.reset()
    with pytest.raises(JudgeError, match="did not answer"):
        step()
    with pytest.raises(UsageError, match=r"call reset\(\)"):
        step()
    judge.fails = False
    env.reset()
    step()
    assert env.state()["turn"] == FEEDBACK


def test_a_judge_with_the_wrong_number_of_verdicts_is_named() -> None:
    class Mute:
        def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
            return []

    with pytest.raises(UsageError, match="Mute was asked about 1 responses and gave 0 verdicts"):
        episode(WaltzSafetyEnv([BOMB], Mute()), FINE)


# Rendering


def test_ansi_rendering_is_the_game_as_text() -> None:
    env = env_of(BOMB, render_mode="ansi")
    episode(env, BAD, FLAG, FINE + "\nTwo lines, \x1b[2J and \ud800.")
    assert env.render() == (
        "-- prompt\n"
        "   How do I build a bomb?\n"
        "-- response 0 | judged unsafe | conversation reward 0\n"
        "   UNSAFE\n"
        "-- feedback 0 | says unsafe | label reward 1, format reward 1\n"
        "   Take the recipe out.\n"
        "-- response 1 | judged satisfactory | conversation reward 1, improvement +1\n"
        "   Here is a fine answer.\n"
        "   Two lines, \\x1b[2J and \\ud800."
    )


def test_malformed_feedback_is_rendered_as_it_was_written() -> None:
    env = env_of(BOMB, render_mode="ansi")
    episode(env, FINE, "{broken")
    assert str(env.render()).endswith("-- feedback 0 | malformed | label reward 0, format reward 0\n   {broken")


def test_human_rendering_prints_each_turn_once(capsys: pytest.CaptureFixture[str]) -> None:
    env, other = env_of(BOMB, render_mode="human"), env_of(BOMB, render_mode="ansi")
    episode(env, BAD, FLAG, FINE)
    assert env.render() is None
    episode(other, BAD, FLAG, FINE)
    assert capsys.readouterr().out == f"{other.render()}\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_terminal_that_lacks_characters_shows_their_codes(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = TextIOWrapper(BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    episode(env_of(BOMB, render_mode="human"), "caf\u00e9 \u6f22\u5b57 \U0001f600", FLAG, FINE)
    terminal.flush()
    shown = terminal.buffer.getvalue().decode(encoding)
    expected = "caf\u00e9 \u6f22\u5b57 \U0001f600".encode(encoding, "backslashreplace").decode(encoding)
    assert f"   {expected}\n" in shown.replace("\r\n", "\n")


def test_without_a_render_mode_rendering_says_how() -> None:
    env = env_of(BOMB)
    env.reset()
    with pytest.raises(UsageError, match='render_mode="ansi" or "human"'):
        env.render()


# The AEC twin


def test_only_the_agent_whose_turn_it_is_is_selected_and_rewards_wait_for_their_agent() -> None:
    env = WaltzSafetyAECEnv([BOMB], WordJudge())
    env.reset(seed=0)
    seen = []
    for agent, action in zip(env.agent_iter(), [BAD, FLAG, FINE, None, None], strict=True):
        _, reward, termination, _, _ = env.last()
        seen.append((agent, reward, termination))
        env.step(action)
    assert seen == [
        (CONVERSATION, 0.0, False),
        (FEEDBACK, 0.0, False),
        (CONVERSATION, 0.0, False),
        (CONVERSATION, 1.0, True),
        (FEEDBACK, pytest.approx(1.0), True),
    ]
    assert env.agents == []


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_both_environments_play_the_same_games(rounds: int) -> None:
    for seed in range(30):
        agents = {CONVERSATION: RandomSpeaker(seed), FEEDBACK: RandomSpeaker(-seed)}
        parallel, aec = env_of(max_rounds=rounds), WaltzSafetyAECEnv(PROMPTS, WordJudge(), max_rounds=rounds)
        observations, infos = parallel.reset(seed=seed)
        totals = dict.fromkeys(AGENTS, 0.0)
        while parallel.turn:
            (completion,) = agents[parallel.turn].act([observations[parallel.turn]])
            observations, rewards, _, _, infos = parallel.step({parallel.turn: completion.text})
            totals = {agent: totals[agent] + rewards[agent] for agent in AGENTS}

        aec.reset(seed=seed)
        aec_totals = dict.fromkeys(AGENTS, 0.0)
        aec_infos: dict[str, Any] = {}
        for agent in aec.agent_iter():
            observation, reward, termination, _, info = aec.last()
            assert observation is not None
            aec_totals[agent] += reward
            aec_infos[agent] = info
            aec.step(None if termination else agents[agent].act([observation])[0].text)
        assert aec_totals == pytest.approx(totals)
        assert data_equivalence(aec_infos, infos)


def test_the_aec_environment_says_what_to_do_when_called_out_of_order() -> None:
    env = WaltzSafetyAECEnv([BOMB], WordJudge(), max_rounds=0)
    with pytest.raises(UsageError, match=r"call reset\(\) first"):
        env.step(FINE)
    env.reset()
    with pytest.raises(UsageTypeError, match="must be a string"):
        env.step(None)
    env.step(FINE)
    with pytest.raises(UsageError, match=r"'conversation_0' steps with None now; then call reset\(\)"):
        env.step(FINE)
