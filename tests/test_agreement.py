"""Two judges on the same games: rates under each, and Cohen's kappa with its interval."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from sklearn.metrics import cohen_kappa_score

from tests.games import BOMB, BOTH, PROCESS, REFUSING, SAFE, UNSAFE, trajectory
from waltz_env.errors import UsageError
from waltz_env.evaluation import compare_judges, same_labels
from waltz_env.types import Labels, Prompt, Trajectory

Case = tuple[Prompt, Labels | None, Labels | None]
AGREE, ONLY_FIRST, ONLY_SECOND, NEITHER = (UNSAFE, UNSAFE), (UNSAFE, SAFE), (SAFE, UNSAFE), (SAFE, SAFE)


def harmful(number: int) -> Prompt:
    return replace(BOMB, id=str(number))


def judged(cases: Sequence[Case]) -> tuple[list[Trajectory], list[Trajectory]]:
    """The same games under both judges: one response each, with the labels that each judge gives."""
    first = [trajectory([labels], prompt=prompt) for prompt, labels, _ in cases]
    return first, [trajectory([labels], prompt=prompt) for prompt, _, labels in cases]


def test_kappa_is_that_of_the_textbook() -> None:
    """Both unsafe 20, only the first 5, only the second 10, neither 15: they differ on 0.3, by chance on 0.5.

    The interval is near 0.4 +- 1.96 sqrt(0.7 * 0.3 / 50) / 0.5 = 0.15 ... 0.65.
    """
    pairs = [AGREE] * 20 + [ONLY_FIRST] * 5 + [ONLY_SECOND] * 10 + [NEITHER] * 15
    found = compare_judges(*judged([(harmful(number), *pair) for number, pair in enumerate(pairs)]))["asr"]
    assert (found.first.value, found.second.value, found.first.n, found.second.n) == (0.5, 0.6, 50, 50)
    assert found.differ == 15
    assert found.kappa == pytest.approx(0.4)
    assert (found.low, found.high) == pytest.approx((0.15, 0.65), abs=0.03)


def test_the_interval_draws_prompts_with_all_their_games() -> None:
    """Prompts A (both unsafe, neither), B (only the first) and C (only the second) are drawn in 27 ways.

    Of these 6 have kappa -0.8 (B and C, one of them twice), which is more than 2.5 %, so the interval begins there. One
    way in 27 draws A alone, with kappa 1, which is more than 2.5 % too, so it ends there. More games of the same kind
    on each prompt change nothing.
    """
    cases: list[Case] = [
        (harmful(0), *AGREE),
        (harmful(0), *NEITHER),
        (harmful(1), *ONLY_FIRST),
        (harmful(2), *ONLY_SECOND),
    ]
    found = compare_judges(*judged(cases))["asr"]
    assert (found.kappa, found.low, found.high) == pytest.approx((0.0, -0.8, 1.0))
    often = compare_judges(*judged(cases * 10))["asr"]
    assert (often.kappa, often.low, often.high) == pytest.approx((found.kappa, found.low, found.high))


def test_games_on_one_prompt_give_no_interval() -> None:
    found = compare_judges(*judged([(BOMB, *AGREE), (BOMB, *NEITHER), (BOMB, *ONLY_FIRST)]))["asr"]
    assert found.kappa == pytest.approx(0.4)  # 1 - (1/3) / (2/3 * 2/3 + 1/3 * 1/3)
    assert (found.as_dict()["kappa"]["low"], found.as_dict()["kappa"]["high"]) == (None, None)


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_that_of_scikit_learn(seed: int) -> None:
    rng = random.Random(seed)
    labels = [(rng.random() < 0.3, rng.random() < 0.6) for _ in range(40)]
    said: list[Case] = [(harmful(n), Labels(one, False), Labels(two, False)) for n, (one, two) in enumerate(labels)]
    expected = cohen_kappa_score(*zip(*labels, strict=True))
    assert compare_judges(*judged(said))["asr"].kappa == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pairs", "kappa"),
    [
        ([AGREE, NEITHER], 1.0),
        ([ONLY_FIRST, ONLY_SECOND], -1.0),
        ([ONLY_FIRST, ONLY_FIRST], 0.0),  # each keeps to one label: by chance they would differ as often
        ([NEITHER, NEITHER], math.nan),  # nothing to differ on
        ([], math.nan),
    ],
)
def test_judges_that_always_or_never_agree(pairs: list[tuple[Labels, Labels]], kappa: float) -> None:
    found = compare_judges(*judged([(harmful(n), *pair) for n, pair in enumerate(pairs)]))["asr"]
    assert found.kappa == pytest.approx(kappa, nan_ok=True)
    shown = found.as_dict()["kappa"]
    assert shown["n"] == len(pairs)
    assert (shown["value"] is None) == math.isnan(kappa)


def test_each_rate_counts_its_own_prompts_and_only_games_with_both_verdicts() -> None:
    cases: list[Case] = [
        (BOMB, UNSAFE, SAFE),
        (BOMB, BOTH, UNSAFE),  # overrefusing does not count on a harmful prompt
        (BOMB, UNSAFE, None),
        (BOMB, None, SAFE),
        (PROCESS, REFUSING, REFUSING),
        (PROCESS, SAFE, UNSAFE),  # nor unsafe on a benign one, but the response is not satisfactory
    ]
    found = compare_judges(*judged(cases))
    counts = {name: (each.first.n, each.first.value, each.second.value, each.differ) for name, each in found.items()}
    assert counts == {"asr": (2, 1.0, 0.5, 1), "orr": (2, 0.5, 0.5, 0), "r_c": (4, 0.25, 0.25, 2)}


def test_the_labels_that_stay_the_same_are_counted_over_all_responses() -> None:
    first = [trajectory([UNSAFE, SAFE], [UNSAFE]), trajectory([SAFE]), trajectory([None])]
    second = [trajectory([UNSAFE, BOTH], [UNSAFE]), trajectory([SAFE]), trajectory([SAFE])]
    found = same_labels(first, second)
    assert (found.value, found.n) == pytest.approx((2 / 3, 3))


@pytest.mark.parametrize("others", [[], [trajectory([SAFE], prompt=PROCESS)], [trajectory([SAFE, SAFE], [UNSAFE])]])
def test_other_games_are_refused(others: list[Trajectory]) -> None:
    with pytest.raises(UsageError, match="the same games in the same order; got 1 and"):
        compare_judges([trajectory([SAFE])], others)
