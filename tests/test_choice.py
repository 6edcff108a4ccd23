from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pettingzoo
import pytest
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given, settings
from hypothesis import strategies as st
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test

import waltz_env
from waltz_env.choice import (
    FEATURES,
    ConversationAction,
    Dynamics,
    FeedbackAction,
    Strategy,
    WaltzSafetyChoiceAECEnv,
    WaltzSafetyChoiceEnv,
    mean_returns,
    never_flag,
    random_strategy,
    solution,
)
from waltz_env.choice.dynamics import ANSWER, ANSWER_ADVICE, DECLINE_ADVICE, REFUSAL
from waltz_env.errors import UsageError, UsageTypeError
from waltz_env.rewards import SETUPS, RewardWeights, conversation_reward, early_reward, late_reward, score
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK, AgentID, Labels

REFUSE, ANSWER_IT, KEEP, FOLLOW = ConversationAction
PASS, FLAG_UNSAFE, FLAG_OVERREFUSE, MALFORMED = FeedbackAction
CERTAIN = Dynamics(misleading=0, slip=0, misled_slip=0, follow=1, reading=1)
HARMFUL, ADVERSARIAL, BENIGN, BORDERLINE = range(4)


def episode(env: WaltzSafetyChoiceEnv, *actions: int, **reset: Any) -> list[Any]:
    """What reset and each step returned; in each step only the active agent acts."""
    seen: list[Any] = [env.reset(**reset)]
    for action in actions:
        assert env.turn is not None
        seen.append(env.step({env.turn: action}))
    return seen


def certain(prompt: int, *actions: int, **settings: Any) -> list[Any]:
    """The same in a world without chance."""
    return episode(WaltzSafetyChoiceEnv(CERTAIN, **settings), *actions, options={"prompt": prompt})


def named(observation: Any) -> dict[str, float]:
    return dict(zip(FEATURES, map(float, observation), strict=True))


# PettingZoo's own checks


def test_the_name_makes_both_environments() -> None:
    assert isinstance(waltz_env.make("WaltzSafetyChoice-v0"), WaltzSafetyChoiceEnv)
    assert isinstance(waltz_env.make_aec("WaltzSafetyChoice-v0"), WaltzSafetyChoiceAECEnv)
    parallel = pettingzoo.make("parallel", "waltz_env/WaltzSafetyChoice-v0", max_rounds=3, weights="B")
    assert isinstance(parallel, WaltzSafetyChoiceEnv)
    assert (parallel.max_rounds, parallel.weights) == (3, SETUPS["B"])


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_both_environments_keep_pettingzoo_s_protocol(rounds: int) -> None:
    parallel_api_test(WaltzSafetyChoiceEnv(max_rounds=rounds), num_cycles=200)
    parallel_seed_test(lambda: WaltzSafetyChoiceEnv(max_rounds=rounds), num_cycles=200)
    api_test(WaltzSafetyChoiceAECEnv(max_rounds=rounds), num_cycles=200)
    seed_test(lambda: WaltzSafetyChoiceAECEnv(max_rounds=rounds), num_cycles=200)


# Observations and turns


def test_agents_act_in_turn_and_both_live_to_the_end() -> None:
    steps = certain(HARMFUL, ANSWER_IT, FLAG_UNSAFE, FOLLOW)
    assert [[named(step[0][agent])["active"] for agent in AGENTS] for step in steps] == [[1, 0], [0, 1], [1, 0], [0, 0]]
    assert [[step[-1][agent]["active"] for agent in AGENTS] for step in steps] == [[1, 0], [0, 1], [1, 0], [0, 0]]
    for _, _, terminations, truncations, _ in steps[1:3]:
        assert terminations == truncations == {CONVERSATION: False, FEEDBACK: False}
    assert steps[3][2] == {CONVERSATION: True, FEEDBACK: True}
    assert steps[3][3] == {CONVERSATION: False, FEEDBACK: False}


def test_the_feedback_agent_alone_sees_its_reading_and_no_one_sees_it_before_the_draft() -> None:
    (start, _), (drafted, *_), (advised, *_) = certain(HARMFUL, ANSWER_IT, FLAG_UNSAFE)
    shared = {"round": 0.0, "looks_harmful": 1.0, "refuses": 0.0, "advice": 0.0}
    assert named(start[CONVERSATION]) == {"active": 1, "is_feedback": 0, **shared, "reading": 0}
    assert named(start[FEEDBACK]) == {"active": 0, "is_feedback": 1, **shared, "reading": 0}
    shared |= {"refuses": -1}
    assert named(drafted[FEEDBACK]) == {"active": 1, "is_feedback": 1, **shared, "reading": 1}
    assert named(drafted[CONVERSATION]) == {"active": 0, "is_feedback": 0, **shared, "reading": 0}
    shared |= {"round": 1, "advice": 1}
    assert named(advised[CONVERSATION]) == {"active": 1, "is_feedback": 0, **shared, "reading": 0}


@pytest.mark.parametrize(
    ("prompt", "looks", "kind"), [(HARMFUL, 1, 1), (ADVERSARIAL, -1, 1), (BENIGN, -1, -1), (BORDERLINE, 1, -1)]
)
def test_a_misleading_prompt_looks_like_the_other_kind_and_a_sure_reading_sees_through_it(
    prompt: int, looks: int, kind: int
) -> None:
    _, (observations, *_) = certain(prompt, KEEP)
    assert named(observations[FEEDBACK])["looks_harmful"] == looks
    assert named(observations[FEEDBACK])["reading"] == kind


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_observations_and_states_lie_in_their_spaces(rounds: int) -> None:
    env = WaltzSafetyChoiceEnv(max_rounds=rounds)
    rng = random.Random(0)
    for seed in range(50):
        observations, _ = env.reset(seed=seed)
        while True:
            for agent in AGENTS:
                assert observations[agent] in env.observation_space(agent)
            assert env.state() in env.state_space
            if env.turn is None:
                break
            observations, *_ = env.step({env.turn: rng.randrange(4)})


def test_no_observation_or_state_tells_the_prompt_s_kind_but_for_the_reading() -> None:
    blind = Dynamics(misleading=0, slip=0, misled_slip=0, reading=0.5)

    def seen(prompt: int) -> list[Any]:
        env = WaltzSafetyChoiceEnv(blind)
        shown = []
        for seed in range(20):
            for step in episode(env, KEEP, FLAG_UNSAFE, REFUSE, seed=seed, options={"prompt": prompt}):
                shown += [step[0][CONVERSATION], step[0][FEEDBACK][:-1]]
            shown += [env.state()[:-1]]
        return shown

    assert np.array_equal(np.concatenate(seen(ADVERSARIAL)), np.concatenate(seen(BENIGN)))


def test_the_state_holds_what_both_know_and_whose_turn_it_is() -> None:
    env = WaltzSafetyChoiceEnv(CERTAIN)
    episode(env, ANSWER_IT, options={"prompt": HARMFUL})
    assert env.state().tolist() == [0, 1, 0, 1, -1, 0, 1]
    env.step({FEEDBACK: FLAG_UNSAFE})
    assert env.state().tolist() == [1, 0, 1, 1, -1, 1, 1]
    env.step({CONVERSATION: FOLLOW})
    assert env.state().tolist() == [0, 0, 1, 1, 1, 1, 1]


# The simulated model


@pytest.mark.parametrize(
    ("action", "looks_harmful", "told", "refusal"),
    [
        (REFUSE, True, {}, 0.9),
        (REFUSE, False, {}, 0.7),
        (ANSWER_IT, True, {}, 0.3),
        (ANSWER_IT, False, {}, 0.1),
        (KEEP, True, {}, 0.3),
        (KEEP, False, {}, 0.1),
        (KEEP, True, {"draft_refuses": False}, 0.0),
        (KEEP, False, {"draft_refuses": True}, 1.0),
        (FOLLOW, True, {}, 0.3),
        (FOLLOW, False, {}, 0.1),
        (FOLLOW, False, {"draft_refuses": False, "advice": DECLINE_ADVICE}, 0.95),
        (FOLLOW, True, {"draft_refuses": True, "advice": ANSWER_ADVICE}, 0.05),
    ],
)
def test_how_often_the_model_refuses_by_hand(
    action: ConversationAction, looks_harmful: bool, told: dict[str, Any], refusal: float
) -> None:
    assert Dynamics().refusal(action, looks_harmful, **told) == pytest.approx(refusal)


def test_the_environment_draws_with_the_documented_probabilities() -> None:
    env = WaltzSafetyChoiceEnv()
    rng = random.Random(0)
    env.reset(seed=0)
    kinds, refusals, readings = [], [], []
    for _ in range(4_000):
        env.reset()
        observations, *_ = env.step({CONVERSATION: rng.choice([REFUSE, ANSWER_IT])})
        seen = named(observations[FEEDBACK])
        _, _, _, _, infos = env.step({FEEDBACK: MALFORMED})
        trajectory = infos[FEEDBACK]["trajectory"]
        kinds.append(trajectory.prompt.id)
        readings.append((seen["reading"] > 0) == trajectory.prompt.harmful)
        refusals.append(trajectory.final.text == REFUSAL)
    shares = {kind: kinds.count(kind) / len(kinds) for kind in ("harmful", "adversarial", "benign", "borderline")}
    assert shares == {
        "harmful": pytest.approx(0.4, abs=0.03),
        "adversarial": pytest.approx(0.1, abs=0.03),
        "benign": pytest.approx(0.4, abs=0.03),
        "borderline": pytest.approx(0.1, abs=0.03),
    }
    assert np.mean(readings) == pytest.approx(0.95, abs=0.015)
    assert np.mean(refusals) == pytest.approx((0.9 + 0.7 + 0.3 + 0.1) / 4, abs=0.03)


@pytest.mark.parametrize("changes", [{"slip": 1.5}, {"harmful": -0.1}, {"reading": float("nan")}])
def test_what_is_no_probability_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(changes))} must be a "):
        Dynamics(**changes)


# Rewards and ends


def test_rewards_and_infos_of_a_repaired_draft_by_hand() -> None:
    _, first, second, third = certain(HARMFUL, ANSWER_IT, FLAG_UNSAFE, FOLLOW)
    assert first[1] == {CONVERSATION: 0.0, FEEDBACK: 0.0}
    assert first[4][FEEDBACK]["labels"] == {"unsafe": True, "overrefuse": False}
    assert second[1] == {CONVERSATION: 0.0, FEEDBACK: pytest.approx(0.35)}
    assert second[4][FEEDBACK]["rewards"] == {"label": 1.0, "format": 1.0}
    assert third[1] == {CONVERSATION: 1.0, FEEDBACK: pytest.approx(0.65)}
    assert [response.text for response in third[4][FEEDBACK]["trajectory"].responses] == [ANSWER, REFUSAL]


@pytest.mark.parametrize(
    ("prompt", "draft", "labels"),
    [
        (HARMFUL, REFUSE, Labels(False, False)),
        (HARMFUL, ANSWER_IT, Labels(True, False)),
        (ADVERSARIAL, ANSWER_IT, Labels(True, False)),
        (BENIGN, REFUSE, Labels(False, True)),
        (BENIGN, ANSWER_IT, Labels(False, False)),
        (BORDERLINE, REFUSE, Labels(False, True)),
    ],
)
def test_verdicts_follow_from_kind_and_outcome(prompt: int, draft: int, labels: Labels) -> None:
    _, (_, rewards, _, _, infos) = certain(prompt, draft)
    assert infos[CONVERSATION]["labels"] == {"unsafe": labels.unsafe, "overrefuse": labels.overrefuse}
    assert rewards[CONVERSATION] == float(labels.ok)


@pytest.mark.parametrize("critique", [PASS, MALFORMED])
def test_the_game_ends_where_nothing_is_flagged(critique: FeedbackAction) -> None:
    *_, (_, rewards, terminations, _, infos) = certain(BENIGN, ANSWER_IT, critique, max_rounds=3)
    assert terminations == {CONVERSATION: True, FEEDBACK: True}
    assert rewards[FEEDBACK] == pytest.approx(0.35 if critique == PASS else 0.0)
    assert infos[FEEDBACK]["rewards"]["improvement"] == 0.0


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_the_game_ends_after_the_last_round(rounds: int) -> None:
    *_, (observations, _, terminations, _, _) = certain(BENIGN, KEEP, *[FLAG_UNSAFE, KEEP] * rounds, max_rounds=rounds)
    assert terminations == {CONVERSATION: True, FEEDBACK: True}
    assert named(observations[FEEDBACK])["round"] == float(rounds > 0)


@given(st.integers(0, 2**32), st.integers(0, 3), st.sampled_from(list(SETUPS)))
@settings(max_examples=100, deadline=None)
def test_rewards_of_the_steps_add_up_to_the_score_of_the_game(seed: int, rounds: int, weights: str) -> None:
    env = WaltzSafetyChoiceEnv(max_rounds=rounds, weights=weights)
    rng = random.Random(seed)
    env.reset(seed=seed)
    totals = dict.fromkeys(AGENTS, 0.0)
    infos: dict[str, Any] = {}
    while env.turn is not None:
        _, rewards, _, _, infos = env.step({env.turn: rng.randrange(4)})
        totals = {agent: totals[agent] + rewards[agent] for agent in AGENTS}
    expected = score(infos[FEEDBACK]["trajectory"], SETUPS[weights])
    assert totals == {agent: pytest.approx(sum(expected.of(agent))) for agent in AGENTS}


# Actions and errors


@pytest.mark.parametrize("kind", [int, np.int64, np.array])
def test_any_integer_is_an_action_and_the_idle_agent_s_is_ignored(kind: Callable[[int], Any]) -> None:
    env = WaltzSafetyChoiceEnv()
    env.reset(seed=0)
    with_idle = env.step({CONVERSATION: kind(1), FEEDBACK: "hello"})  # type: ignore[dict-item]
    env.reset(seed=0)
    assert data_equivalence(with_idle, env.step({CONVERSATION: 1}))


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint16, np.array])
@pytest.mark.parametrize("name", ["WaltzSafetyChoice-v0", "WaltzSafety-v0"])
def test_any_integer_chooses_a_prompt_in_the_twin_and_in_the_text_game(name: str, kind: Callable[[int], Any]) -> None:
    env = waltz_env.make(name)
    chosen, expected = (env.reset(seed=0, options={"prompt": index}) for index in (kind(1), 1))
    assert data_equivalence(chosen, expected)
    with pytest.raises(UsageError):
        env.reset(options={"prompt": kind(10_000)})
    with pytest.raises(UsageTypeError):
        env.reset(options={"prompt": np.float64(1)})


@pytest.mark.parametrize("action", [None, 1.0, "1"])
def test_an_action_that_is_no_integer_is_a_type_error(action: Any) -> None:
    env = WaltzSafetyChoiceEnv()
    env.reset()
    with pytest.raises(UsageTypeError, match="An action of conversation_0 .* must be an index"):
        env.step({CONVERSATION: action})
    env.step({CONVERSATION: 0})


@pytest.mark.parametrize("action", [-1, 4])
def test_an_action_out_of_range_is_refused_with_the_ones_there_are(action: int) -> None:
    env = WaltzSafetyChoiceEnv()
    env.reset()
    with pytest.raises(UsageError, match=f"0 REFUSE, 1 ANSWER, 2 KEEP, 3 FOLLOW.*; got {action}"):
        env.step({CONVERSATION: action})
    env.step({CONVERSATION: 0})
    with pytest.raises(UsageError, match="0 PASS, 1 FLAG_UNSAFE, 2 FLAG_OVERREFUSE, 3 MALFORMED"):
        env.step({FEEDBACK: action})


def test_missing_and_unknown_agents_are_named() -> None:
    env = WaltzSafetyChoiceEnv()
    env.reset()
    with pytest.raises(UsageError, match=r"turn of 'conversation_0'.*got actions for 'feedback_0'"):
        env.step({FEEDBACK: 0})
    with pytest.raises(UsageError, match=r"Did you mean 'conversation_0'"):
        env.step({"conversation": 0})


def test_calls_out_of_order_say_what_to_do() -> None:
    env = WaltzSafetyChoiceEnv(render_mode="ansi")
    for call in (lambda: env.step({CONVERSATION: 0}), env.state, env.render):
        with pytest.raises(UsageError, match=r"call reset\(\) first"):
            call()
    episode(env, REFUSE, PASS)
    with pytest.raises(UsageError, match="this one has ended"):
        env.step({CONVERSATION: 0})
    env.reset()
    env.close()
    with pytest.raises(UsageError, match=r"call reset\(\)"):
        env.step({CONVERSATION: 0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "D"}, "Unknown reward set-up 'D'"),
        ({"max_rounds": -1}, "max_rounds must be 0 or more; got -1"),
        ({"render_mode": "rgb_array"}, "Unknown render mode 'rgb_array'"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        waltz_env.make("WaltzSafetyChoice-v0", **settings)


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        (4, UsageError, "an index from 0 to 3; got 4"),
        ("harmful", UsageTypeError, r"must be an index from 0 to 3; got 'harmful' \(str\)"),
    ],
)
def test_a_choice_that_is_no_index_is_refused(choice: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        WaltzSafetyChoiceEnv().reset(options={"prompt": choice})


# Resets and twins


@pytest.mark.parametrize("seed", range(10))
def test_a_seed_fixes_the_whole_episode(seed: int) -> None:
    def record() -> list[Any]:
        env = WaltzSafetyChoiceEnv(max_rounds=3)
        rng = random.Random(seed)
        steps: list[Any] = []
        for start in (seed, None, None):
            steps.append(env.reset(seed=start))
            while env.turn is not None:
                steps.append(env.step({env.turn: rng.choice([0, 1, 2])}))
        return steps

    first, second = record(), record()
    assert len(first) == len(second)
    assert all(data_equivalence(a, b) for a, b in zip(first, second, strict=True))


def test_an_environment_can_be_sent_to_another_process() -> None:
    env = WaltzSafetyChoiceEnv()
    env.reset(seed=3)
    again = pickle.loads(pickle.dumps(env))
    assert data_equivalence(env.step({CONVERSATION: 0}), again.step({CONVERSATION: 0}))


def test_ansi_rendering_is_the_game_as_text() -> None:
    env = WaltzSafetyChoiceEnv(CERTAIN, render_mode="ansi")
    episode(env, ANSWER_IT, FLAG_UNSAFE, FOLLOW, options={"prompt": HARMFUL})
    assert env.render() == (
        "-- prompt\n"
        "   A request that looks harmful.\n"
        "-- response 0 | judged unsafe | conversation reward 0\n"
        "   Here is how it is done.\n"
        "-- feedback 0 | says unsafe | label reward 1, format reward 1\n"
        "   Decline this request.\n"
        "-- response 1 | judged satisfactory | conversation reward 1, improvement +1\n"
        "   I can't help with that."
    )


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_both_environments_play_the_same_games(rounds: int) -> None:
    parallel, aec = WaltzSafetyChoiceEnv(max_rounds=rounds), WaltzSafetyChoiceAECEnv(max_rounds=rounds)
    for seed in range(30):
        rng, again = random.Random(seed), random.Random(seed)
        _, infos = parallel.reset(seed=seed)
        totals = dict.fromkeys(AGENTS, 0.0)
        while parallel.turn:
            _, rewards, _, _, infos = parallel.step({parallel.turn: rng.randrange(4)})
            totals = {agent: totals[agent] + rewards[agent] for agent in AGENTS}
        aec.reset(seed=seed)
        aec_totals = dict.fromkeys(AGENTS, 0.0)
        aec_infos: dict[str, Any] = {}
        for agent in aec.agent_iter():
            _, reward, termination, _, info = aec.last()
            aec_totals[agent] += reward
            aec_infos[agent] = info
            aec.step(None if termination else again.randrange(4))
        assert aec_totals == pytest.approx(totals)
        assert data_equivalence(aec_infos, infos)


# What solving it means: exact returns by enumeration, for one round


Act = Callable[[AgentID, tuple[float, ...]], int]


def outcomes(act: Act, weights: RewardWeights) -> Iterator[tuple[float, dict[AgentID, float]]]:
    """Every course of a game of one round with its probability and what each agent earns in it."""
    d = Dynamics()
    for harmful, misled, right in product([True, False], repeat=3):
        chance = 0.5 * (d.misleading if misled else 1 - d.misleading) * (d.reading if right else 1 - d.reading)
        looks, reading = (1 if harmful != misled else -1), (1 if harmful == right else -1)
        first = d.refusal(ConversationAction(act(CONVERSATION, (1, 0, 0, looks, 0, 0, 0))), looks > 0)
        for refuses in (True, False):
            drafted = chance * (first if refuses else 1 - first)
            response = 1 if refuses else -1
            before = Labels(unsafe=harmful and not refuses, overrefuse=refuses and not harmful)
            critique = act(FEEDBACK, (1, 1, 0, looks, response, 0, reading))
            claim = {PASS: Labels(False, False), FLAG_UNSAFE: Labels(True, False), FLAG_OVERREFUSE: Labels(False, True)}
            label, form = float(claim.get(FeedbackAction(critique)) == before), float(critique != MALFORMED)
            earned = {CONVERSATION: conversation_reward(before), FEEDBACK: early_reward(label, form, weights)}
            if critique in (PASS, MALFORMED):
                yield drafted, earned
                continue
            advice = 1 if critique == FLAG_UNSAFE else -1
            second = d.refusal(
                ConversationAction(act(CONVERSATION, (1, 0, 1, looks, response, advice, 0))),
                looks > 0,
                draft_refuses=refuses,
                advice=DECLINE_ADVICE if advice > 0 else ANSWER_ADVICE,
            )
            for declined in (True, False):
                after = conversation_reward(Labels(harmful and not declined, declined and not harmful))
                late = late_reward(after - conversation_reward(before), label, weights)
                yield (
                    drafted * (second if declined else 1 - second),
                    {
                        CONVERSATION: earned[CONVERSATION] + after,
                        FEEDBACK: earned[FEEDBACK] + late,
                    },
                )


def exact_returns(policy: Act, weights: str = "A") -> dict[AgentID, float]:
    courses = list(outcomes(policy, SETUPS[weights]))
    assert sum(chance for chance, _ in courses) == pytest.approx(1)
    return {agent: sum(chance * earned[agent] for chance, earned in courses) for agent in AGENTS}


def played(policy: Strategy) -> Act:
    return lambda agent, observation: policy(np.array(observation))


@pytest.mark.parametrize(
    ("policy", "conversation", "feedback"), [(solution, 0.9765, 0.4900225), (never_flag, 0.74, 0.285)]
)
def test_returns_worked_out_by_hand_are_those_of_enumeration_and_of_play(
    policy: Strategy, conversation: float, feedback: float
) -> None:
    by_hand = {CONVERSATION: conversation, FEEDBACK: feedback}
    assert exact_returns(played(policy)) == pytest.approx(by_hand)
    assert mean_returns(policy, games=3000) == pytest.approx(by_hand, abs=0.035)


OBSERVATIONS: dict[AgentID, list[tuple[float, ...]]] = {
    CONVERSATION: [
        *((1, 0, 0, looks, 0, 0, 0) for looks in (1, -1)),
        *((1, 0, 1, *seen, 0) for seen in product([1, -1], repeat=3)),
    ],
    FEEDBACK: [(1, 1, 0, looks, refuses, 0, reading) for looks, refuses, reading in product([1, -1], repeat=3)],
}


@pytest.mark.parametrize("weights", ["A", "C", "dir-off"])
@pytest.mark.parametrize("agent", AGENTS)
def test_no_agent_gains_by_leaving_the_solution(agent: AgentID, weights: str) -> None:
    """What an agent does in one observation cannot bring it into another, but for c_0, which is tried with all c_1."""
    best = exact_returns(played(solution), weights)[agent]
    starts = product(range(4), repeat=2) if agent == CONVERSATION else [()]
    for drafts in starts:
        fixed = dict(zip(OBSERVATIONS[CONVERSATION], drafts, strict=False))
        for changed, action in product(OBSERVATIONS[agent], range(4)):
            assert exact_returns(solution_but({**fixed, changed: action}), weights)[agent] <= best + 1e-12


def solution_but(changes: dict[tuple[float, ...], int]) -> Act:
    return lambda _, seen: changes[seen] if seen in changes else solution(np.array(seen))


def test_play_finds_the_order_random_never_flag_solution_for_the_feedback_agent() -> None:
    returns = [mean_returns(policy, games=1500)[FEEDBACK] for policy in (random_strategy(), never_flag, solution)]
    assert returns[0] + 0.05 < returns[1] < returns[2] - 0.15


def flag_all(observation: Any) -> int:
    """The solution, but for a feedback agent that flags what fits its reading, too."""
    if not observation[1]:
        return solution(observation)
    return FLAG_OVERREFUSE if observation[4] > 0 else FLAG_UNSAFE


def advise_always(observation: Any) -> int:
    """The solution, but for a feedback agent that asks for a revision of everything, by its reading."""
    if not observation[1]:
        return solution(observation)
    return FLAG_UNSAFE if observation[6] > 0 else FLAG_OVERREFUSE


def test_without_the_label_reward_it_pays_to_flag_everything() -> None:
    assert exact_returns(played(flag_all), "B")[FEEDBACK] > exact_returns(played(solution), "B")[FEEDBACK]


def test_who_maximises_the_sum_of_both_returns_plays_another_game() -> None:
    always, both = exact_returns(played(advise_always)), exact_returns(played(solution))
    assert always == pytest.approx({CONVERSATION: 1.645, FEEDBACK: 0.3142725})
    assert sum(always.values()) > sum(both.values())
    assert always[FEEDBACK] < both[FEEDBACK]


@pytest.mark.parametrize(("old", "new"), [("Policy", Strategy), ("random_policy", random_strategy)])
def test_old_names_still_work_and_say_what_replaces_them(old: str, new: object) -> None:
    with pytest.warns(DeprecationWarning, match=f"waltz_env.choice.{old} is deprecated: use waltz_env.choice."):
        assert getattr(waltz_env.choice, old) is new
