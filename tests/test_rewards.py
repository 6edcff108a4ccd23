from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.games import ALL_LABELS, BOTH, REFUSING, SAFE, UNSAFE, labels, trajectory
from waltz_env.env import WaltzSafetyEnv
from waltz_env.errors import UsageError
from waltz_env.rewards import (
    DIR_OFF,
    SETUP_A,
    SETUP_B,
    SETUP_C,
    SETUPS,
    RewardWeights,
    conversation_reward,
    early_reward,
    late_reward,
    score,
    setup,
)
from waltz_env.types import CONVERSATION, FEEDBACK, Labels, Trajectory, Usage


def game(before: Labels, claim: Labels | None, after: Labels | None = None) -> Trajectory:
    """c_0 judged ``before``, an f_0 that claims ``claim`` (None: malformed) and, if any, c_1 judged ``after``."""
    return trajectory([before] if after is None else [before, after], [claim])


def test_a_response_is_paid_for_being_neither_unsafe_nor_overrefusing() -> None:
    assert [conversation_reward(label) for label in (SAFE, UNSAFE, REFUSING, BOTH)] == [1.0, 0.0, 0.0, 0.0]


# Eq. 2 and 3 by hand: alpha .65, lambda .25 (A) or 0 (B, C), gamma .1.
# c_0, claim of f_0, c_1: R_DIR, R_label, R_format: R_f in set-ups A, B, C and with DIR off.
BY_HAND = [
    # right label, fixed
    (UNSAFE, UNSAFE, SAFE, 1, 1, 1, (1.0, 0.75, 0.75, 0.35)),
    (REFUSING, REFUSING, SAFE, 1, 1, 1, (1.0, 0.75, 0.75, 0.35)),
    (BOTH, BOTH, SAFE, 1, 1, 1, (1.0, 0.75, 0.75, 0.35)),
    # right label, not fixed, or made bad in another way
    (UNSAFE, UNSAFE, UNSAFE, 0, 1, 1, (0.35, 0.1, 0.1, 0.35)),
    (UNSAFE, UNSAFE, REFUSING, 0, 1, 1, (0.35, 0.1, 0.1, 0.35)),
    # right label: satisfied, so no revision
    (SAFE, SAFE, None, 0, 1, 1, (0.35, 0.1, 0.1, 0.35)),
    # wrong label, fixed all the same: paid in C alone
    (UNSAFE, REFUSING, SAFE, 1, 0, 1, (0.1, 0.1, 0.75, 0.1)),
    (UNSAFE, BOTH, SAFE, 1, 0, 1, (0.1, 0.1, 0.75, 0.1)),
    # wrong label, a good answer flagged: kept, or talked into a bad one (fined in C alone)
    (SAFE, UNSAFE, SAFE, 0, 0, 1, (0.1, 0.1, 0.1, 0.1)),
    (SAFE, UNSAFE, REFUSING, -1, 0, 1, (0.1, 0.1, -0.55, 0.1)),
    # wrong label: a bad answer passed
    (UNSAFE, SAFE, None, 0, 0, 1, (0.1, 0.1, 0.1, 0.1)),
    # malformed: the game has ended, nothing is paid
    (UNSAFE, None, None, 0, 0, 0, (0.0, 0.0, 0.0, 0.0)),
    (SAFE, None, None, 0, 0, 0, (0.0, 0.0, 0.0, 0.0)),
]


@pytest.mark.parametrize(("before", "claim", "after", "improvement", "label", "form", "totals"), BY_HAND)
def test_feedback_rewards_by_hand(
    before: Labels,
    claim: Labels | None,
    after: Labels | None,
    improvement: float,
    label: float,
    form: float,
    totals: tuple[float, float, float, float],
) -> None:
    played = game(before, claim, after)
    rewards = score(played)
    assert (rewards.improvement, rewards.label, rewards.format) == ((improvement,), (label,), (form,))
    for weights, total in zip((SETUP_A, SETUP_B, SETUP_C, DIR_OFF), totals, strict=True):
        assert score(played, weights).feedback == pytest.approx((total,))


def test_with_one_round_and_right_labels_improvement_is_never_negative() -> None:
    for before in ALL_LABELS:
        for after in ALL_LABELS if not before.ok else [None]:
            assert score(game(before, before, after)).improvement[0] >= 0


def test_the_values_of_both_stages_are_those_of_the_paper() -> None:
    games = [game(b, c, a) for b in ALL_LABELS for c in ALL_LABELS for a in (ALL_LABELS if not c.ok else [None])]
    stage_1 = {round(score(g, SETUP_A).feedback[0], 10) for g in games}
    stage_2 = {round(score(g, SETUP_B).feedback[0], 10) for g in games}
    assert stage_1 == {0.1, 0.35, 1.0}
    assert stage_2 == {0.1, 0.75}


def test_each_response_of_a_longer_game_is_paid_by_itself_and_each_critique_for_its_own_revision() -> None:
    played = trajectory([UNSAFE, REFUSING, SAFE], [UNSAFE, REFUSING])
    rewards = score(played)
    assert rewards.conversation == (0.0, 0.0, 1.0)
    assert rewards.improvement == (0.0, 1.0)
    assert rewards.label == (1.0, 1.0)
    assert rewards.feedback == pytest.approx((0.35, 1.0))


def test_the_label_of_later_feedback_is_against_the_response_it_was_shown() -> None:
    played = trajectory([UNSAFE, SAFE], [UNSAFE, UNSAFE])
    assert score(played).label == (1.0, 0.0)


def test_a_game_without_feedback_pays_the_conversation_agent_alone() -> None:
    rewards = score(trajectory([SAFE]))
    assert (rewards.conversation, rewards.feedback) == ((1.0,), ())


def test_rewards_are_found_by_agent() -> None:
    rewards = score(game(UNSAFE, UNSAFE, SAFE))
    assert rewards.of(CONVERSATION) == (0.0, 1.0)
    assert rewards.of(FEEDBACK) == (1.0,)


def test_a_game_with_a_response_that_nobody_judged_is_refused() -> None:
    played = trajectory([UNSAFE, None], [UNSAFE])
    with pytest.raises(UsageError, match=r"'bomb' has 1 response\(s\) without a judgement"):
        score(played)


def test_set_ups_are_found_by_name_and_weights_pass_through() -> None:
    assert setup("B") is SETUP_B
    assert setup(RewardWeights(label=0.1)) == RewardWeights(0.65, 0.1, 0.1)
    with pytest.raises(UsageError, match=r"Unknown reward set-up 'dir_off'\. Did you mean 'dir-off'\?"):
        setup("dir_off")


# The same by hand with a price of 0.01 per token, on a critique of 20 tokens: 0.2 less.
PRICED = [
    (UNSAFE, UNSAFE, SAFE, (0.8, 0.55, 0.55, 0.15)),
    (SAFE, SAFE, None, (0.15, -0.1, -0.1, 0.15)),
    (SAFE, UNSAFE, REFUSING, (-0.1, -0.1, -0.75, -0.1)),
    (UNSAFE, None, None, (-0.2, -0.2, -0.2, -0.2)),
]


@pytest.mark.parametrize("known_by", ["usage", "ids"])
@pytest.mark.parametrize(("before", "claim", "after", "totals"), PRICED)
def test_each_token_of_a_critique_costs_its_price(
    before: Labels, claim: Labels | None, after: Labels | None, totals: tuple[float, ...], known_by: str
) -> None:
    played = game(before, claim, after)
    (said,) = played.critiques
    counted: dict[str, Any] = {"usage": Usage(300, 20)}
    if known_by == "ids":
        counted = {"prompt_ids": (1,) * 300, "token_ids": (2,) * 20}
    played = replace(played, critiques=(replace(said, completion=replace(said.completion, **counted)),))
    for weights, total in zip((SETUP_A, SETUP_B, SETUP_C, DIR_OFF), totals, strict=True):
        priced = score(played, replace(weights, length=0.01))
        assert priced.feedback == pytest.approx((total,))
        assert replace(priced, feedback=()) == replace(score(played, weights), feedback=())


def test_a_price_needs_a_number_of_tokens_and_is_not_negative() -> None:
    with pytest.raises(UsageError, match="number of tokens is known"):
        score(game(SAFE, SAFE), RewardWeights(length=0.01))
    with pytest.raises(UsageError, match="no number of tokens"):
        WaltzSafetyEnv(weights="0.65,0.1,0.1,0.01")
    with pytest.raises(UsageError, match="length"):
        RewardWeights(length=-0.01)


def test_the_price_is_a_fourth_number() -> None:
    weights = RewardWeights(0.65, 0.1, 0.1, length=0.002)
    assert setup("0.65,0.1,0.1,0.002") == weights
    with pytest.raises(UsageError, match="fourth number"):
        setup("0.65,0.1,0.1,0.002,1")


@given(labels, st.none() | labels, labels, st.sampled_from(list(SETUPS.values())))
def test_early_and_late_rewards_add_up_to_the_whole(
    before: Labels, claim: Labels | None, after: Labels, weights: RewardWeights
) -> None:
    revised = claim is not None and not claim.ok
    rewards = score(game(before, claim, after if revised else None), weights)
    early = early_reward(rewards.label[0], rewards.format[0], weights)
    late = late_reward(rewards.improvement[0], rewards.label[0], weights)
    assert rewards.feedback[0] == pytest.approx(early + late)
    assert rewards.improvement[0] == (conversation_reward(after) - conversation_reward(before) if revised else 0)


@pytest.mark.parametrize(
    ("spelled", "weights"),
    [
        ("0.65,0.25,0.1,ungated", RewardWeights(gated=False)),
        ("0.65,0.1,0.1,0.002,ungated", RewardWeights(0.65, 0.1, 0.1, gated=False, length=0.002)),
        ("0.65,0,0.1,ungated", SETUP_C),
    ],
)
def test_numbers_may_be_ungated(spelled: str, weights: RewardWeights) -> None:
    assert setup(spelled) == weights


@pytest.mark.parametrize("spelled", ["ungated", "A,ungated", "0.65,0.25,ungated", "0.65,ungated,0.25,0.1"])
def test_a_set_up_is_not_ungated_otherwise(spelled: str) -> None:
    with pytest.raises(UsageError):
        setup(spelled)
