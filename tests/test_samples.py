from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.games import trajectory
from waltz_env.algorithms.protocols import Sample
from waltz_env.algorithms.training.samples import SampleConfig, samples
from waltz_env.errors import UsageError
from waltz_env.rewards import SETUP_A, SETUP_B, RewardWeights
from waltz_env.types import (
    CONVERSATION,
    FEEDBACK,
    Completion,
    Judgement,
    Kind,
    Labels,
    Prompt,
    Response,
    Trajectory,
)

OK, UNSAFE, OVERREFUSE = Labels(False, False), Labels(True, False), Labels(False, True)


def game(*verdicts: Labels | None, flags: Labels = UNSAFE, prompt: str = "p") -> Trajectory:
    """A game with a critique between any two responses; tokens 10, 11, ... and 20, 21, ..."""
    critiques = [flags] * (len(verdicts) - 1)
    return trajectory(verdicts, critiques, Prompt(prompt, Kind.HARMFUL, id=prompt), tokens=True)


def take(
    games: list[Trajectory], agent: str, *, weights: RewardWeights | str = SETUP_A, seed: int = 0, **config: Any
) -> list[Sample]:
    return samples(games, agent, weights=weights, rng=np.random.default_rng(seed), config=SampleConfig(**config))


def test_a_row_carries_ids_logprobs_reward_and_version_as_sampled() -> None:
    (row,) = take([game(UNSAFE, OK)], FEEDBACK)
    assert (row.prompt_ids, row.token_ids, row.logprobs, row.version) == ((1, 2), (20,), (-0.5,), 3)
    assert row.reward == pytest.approx(1.0)


def test_the_set_up_changes_the_reward_of_the_feedback_agent() -> None:
    (row,) = take([game(UNSAFE, OK)], FEEDBACK, weights=SETUP_B)
    assert row.reward == pytest.approx(0.75)
    (named,) = take([game(UNSAFE, OK)], FEEDBACK, weights="B")
    assert named.reward == row.reward


def test_the_conversation_agent_learns_from_the_draft_or_the_last_response() -> None:
    rows = take([game(UNSAFE, UNSAFE, OK)] * 400, CONVERSATION)
    drawn = [row.token_ids[0] for row in rows]
    assert len(rows) == 400
    assert set(drawn) == {10, 12}
    assert 160 < drawn.count(10) < 240
    assert {(row.token_ids[0], row.reward) for row in rows} == {(10, 0.0), (12, 1.0)}


@pytest.mark.parametrize(("probability", "token"), [(1.0, 10), (0.0, 11)])
def test_the_draft_probability_decides(probability: float, token: int) -> None:
    rows = take([game(UNSAFE, OK)] * 20, CONVERSATION, draft_probability=probability)
    assert {row.token_ids for row in rows} == {(token,)}


def test_a_game_of_one_response_always_gives_its_draft() -> None:
    rows = take([game(OK)], CONVERSATION, draft_probability=0.0)
    assert [row.token_ids for row in rows] == [(10,)]
    assert take([game(OK)], FEEDBACK) == []


def test_the_feedback_agents_round_is_drawn_uniformly() -> None:
    rows = take([game(UNSAFE, UNSAFE, UNSAFE, OK)] * 600, FEEDBACK)
    counts = [[row.token_ids[0] for row in rows].count(token) for token in (20, 21, 22)]
    assert sum(counts) == 600
    assert all(150 < count < 250 for count in counts)


def test_all_rows_are_all_turns_of_that_agent() -> None:
    games = [game(UNSAFE, UNSAFE, OK), game(OK)]
    assert [r.token_ids[0] for r in take(games, CONVERSATION, turns="all")] == [10, 11, 12, 10]
    assert [r.token_ids[0] for r in take(games, FEEDBACK, turns="all")] == [20, 21]


@pytest.mark.parametrize(
    ("responses", "turns", "conversation"),
    [
        ("drafts", "all", [10, 10]),
        ("drafts", "one", [10, 10]),
        ("revisions", "all", [11, 12]),
        ("revisions", "one", [12]),
    ],
)
def test_drafts_or_revisions_alone_are_chosen_for_the_conversation_agent_only(
    responses: str, turns: str, conversation: list[int]
) -> None:
    games = [game(UNSAFE, UNSAFE, OK), game(OK)]
    chosen = [take(games, a, turns=turns, responses=responses) for a in (CONVERSATION, FEEDBACK)]
    assert [row.token_ids[0] for row in chosen[0]] == conversation
    assert len(chosen[1]) == (2 if turns == "all" else 1)


def test_games_without_a_verdict_and_turns_without_a_token_are_left_out() -> None:
    silent = Trajectory(
        Prompt("p", Kind.BENIGN),
        (Response(Completion("", prompt_ids=(1,), token_ids=(), logprobs=()), Judgement(OK, "test")),),
        (),
    )
    assert take([game(UNSAFE, None), silent], CONVERSATION, turns="all") == []


def test_the_same_generator_draws_the_same_rows() -> None:
    games = [game(UNSAFE, OK, prompt=str(i)) for i in range(20)]
    assert take(games, CONVERSATION, seed=5) == take(games, CONVERSATION, seed=5)


@given(st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=6), st.sampled_from(["prompt", "labels"]))
def test_agents_and_turns_never_share_a_group(prompts: list[str], group: str) -> None:
    games = [game(UNSAFE, UNSAFE, OK, prompt=prompt) for prompt in prompts]
    turns_of: dict[object, set[int]] = {}
    for agent in (CONVERSATION, FEEDBACK):
        for row in take(games, agent, turns="all", group=group):
            turns_of.setdefault(row.group, set()).add(row.token_ids[0])
    assert all(len(turns) == 1 for turns in turns_of.values())


def test_rows_of_one_prompt_share_a_group_and_rows_of_two_do_not() -> None:
    first, same, other = take([game(UNSAFE, OK), game(OK, OK), game(UNSAFE, OK, prompt="q")], FEEDBACK)
    assert first.group == same.group != other.group


def test_groups_by_verdict_follow_the_latest_response_in_the_state() -> None:
    games = [game(UNSAFE, OK), game(UNSAFE, UNSAFE, prompt="q"), game(OVERREFUSE, OK)]
    unsafe, also_unsafe, overrefuse = take(games, FEEDBACK, group="labels")
    assert unsafe.group == also_unsafe.group != overrefuse.group
    rows = take(games, CONVERSATION, group="labels", turns="all")
    drafts, revisions = rows[::2], rows[1::2]
    assert len({row.group for row in drafts}) == 1
    assert revisions[0].group == revisions[1].group != revisions[2].group


@pytest.mark.parametrize(
    "missing",
    [
        Completion("scripted"),
        Completion("server", token_ids=(1,), logprobs=(-0.1,)),
        Completion("cut", prompt_ids=(1,), token_ids=(1, 2), logprobs=(-0.1,)),
    ],
)
def test_completions_that_cannot_be_trained_on_are_refused(missing: Completion) -> None:
    played = Trajectory(Prompt("p", Kind.BENIGN), (Response(missing, Judgement(OK, "test")),), ())
    with pytest.raises(UsageError, match="conversation_0 cannot be trained"):
        take([played], CONVERSATION)


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UsageError, match="conversation_0"):
        take([], "conversation")
    with pytest.raises(UsageError, match="drafts"):
        take([], CONVERSATION, responses="draft")
    with pytest.raises(UsageError, match="labels"):
        take([], FEEDBACK, group="verdicts")
    with pytest.raises(UsageError, match="one"):
        take([], FEEDBACK, turns="ones")
