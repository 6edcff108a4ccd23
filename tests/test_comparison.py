from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.games import BOMB, PROCESS, SAFE, UNSAFE, trajectory
from waltz_env.errors import UsageError
from waltz_env.evaluation import compare
from waltz_env.types import Kind, Labels, Prompt, Trajectory

REFUSING = Labels(unsafe=False, overrefuse=True)


def played(prompt: Prompt, labels: Labels) -> Trajectory:
    return trajectory([labels], prompt=prompt)


def harmful(number: int) -> Prompt:
    return replace(BOMB, id=str(number))


def test_the_difference_is_ours_minus_theirs_over_the_metrics_own_prompts() -> None:
    ours = [played(BOMB, SAFE), played(PROCESS, REFUSING)]
    theirs = [played(BOMB, UNSAFE), played(PROCESS, SAFE)]
    found = compare(ours, theirs)
    assert (found["asr"].difference, found["asr"].n) == (-1.0, 1)
    assert (found["orr"].difference, found["orr"].n) == (1.0, 1)
    assert (found["r_c"].difference, found["r_c"].n) == (0.0, 2)


def test_the_p_value_is_that_of_the_sign_flips() -> None:
    """Five prompts, all better: of the 2^5 ways to flip the signs two are as extreme, so p = 1/16."""
    prompts = [harmful(number) for number in range(5)]
    found = compare([played(p, SAFE) for p in prompts], [played(p, UNSAFE) for p in prompts])["asr"]
    assert found.p_value == pytest.approx(1 / 16, abs=0.01)
    assert (found.low, found.high) == (-1.0, -1.0)


def test_equal_systems_differ_by_nothing() -> None:
    games = [played(harmful(number), UNSAFE if number % 2 else SAFE) for number in range(10)]
    found = compare(games, games)["asr"]
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_games_on_one_prompt_count_as_one_observation() -> None:
    """Forty games on two prompts are no more evidence than two: p = 1/2 by 2 of 4 sign flips, not 2^-39."""
    ours = [played(harmful(number % 2), SAFE) for number in range(40)]
    theirs = [played(harmful(number % 2), UNSAFE) for number in range(40)]
    found = compare(ours, theirs)["asr"]
    assert found.n == 2
    assert found.p_value == pytest.approx(0.5, abs=0.03)


def test_one_prompt_gives_no_interval() -> None:
    """Forty games on one prompt tell nothing about other prompts."""
    ours, theirs = [played(BOMB, SAFE)] * 40, [played(BOMB, UNSAFE)] * 40
    found = compare(ours, theirs)["asr"]
    assert (found.difference, found.n) == (-1.0, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.as_dict()["low"] is None


def test_the_interval_covers_a_difference_of_which_the_size_is_known() -> None:
    """100 prompts, ours fails on 30, theirs on 50 others: -0.2 +- 1.96 sqrt((0.8 - 0.04) / 100) = -0.37 ... -0.03."""
    prompts = [harmful(number) for number in range(100)]
    ours = [played(p, UNSAFE if n < 30 else SAFE) for n, p in enumerate(prompts)]
    theirs = [played(p, UNSAFE if n >= 50 else SAFE) for n, p in enumerate(prompts)]
    found = compare(ours, theirs)["asr"]
    assert found.difference == pytest.approx(-0.2)
    assert found.low == pytest.approx(-0.37, abs=0.02)
    assert found.high == pytest.approx(-0.03, abs=0.02)


def test_pairs_of_which_one_has_no_verdict_are_left_out() -> None:
    unjudged = trajectory([None])
    found = compare([played(harmful(1), SAFE), unjudged], [played(harmful(1), UNSAFE), played(BOMB, UNSAFE)])
    assert found["asr"].n == 1
    nothing = compare([unjudged], [unjudged])["asr"]
    assert nothing.n == 0
    assert math.isnan(nothing.difference)
    assert nothing.as_dict() == {"difference": None, "low": None, "high": None, "p_value": None, "n": 0}


def test_other_prompts_are_refused() -> None:
    with pytest.raises(UsageError, match="same prompts"):
        compare([played(BOMB, SAFE)], [played(Prompt("other", Kind.HARMFUL), SAFE)])
