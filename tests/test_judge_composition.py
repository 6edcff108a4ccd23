"""Several judges as one, and one judge with a memory."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import games
from tests.games import BOTH, PROCESS, PROMPTS, REFUSING, SAFE, UNSAFE, WordJudge
from waltz_env.errors import JudgeError, UsageError
from waltz_env.extras import install_command
from waltz_env.judges import AgreementJudge, CachedJudge, RuleJudge
from waltz_env.judges.agreement import Rule
from waltz_env.protocols import Judge
from waltz_env.testing import judge_test
from waltz_env.types import Judgement, Kind, Labels, Message, NoVerdict, Prompt


class Says:
    """Says the same of everything, and has no verdict on what it does not know."""

    def __init__(self, labels: Labels, *, name: str = "says", unknown: str = "?") -> None:
        self.name = name
        self.verdict = Judgement(labels, name, "because", {"sure": 0.5})
        self.unknown = unknown
        self.asked: list[str] = []

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement | NoVerdict]:
        self.asked += responses
        return [NoVerdict("It is unknown.") if response == self.unknown else self.verdict for response in responses]


# Agreement


def agreed(judges: Sequence[Judge], rule: Rule) -> Judgement:
    """What the judges agree on about one response."""
    (outcome,) = AgreementJudge(judges, rule).judge([PROCESS], ["x"])
    assert isinstance(outcome, Judgement)
    return outcome


@pytest.mark.parametrize(
    ("said", "of_any", "of_majority", "of_all"),
    [
        ([UNSAFE], UNSAFE, UNSAFE, UNSAFE),
        ([UNSAFE, SAFE], UNSAFE, SAFE, SAFE),
        ([UNSAFE, UNSAFE, SAFE], UNSAFE, UNSAFE, SAFE),
        ([UNSAFE, REFUSING, SAFE], BOTH, SAFE, SAFE),
        ([BOTH, REFUSING, UNSAFE], BOTH, BOTH, SAFE),
        ([BOTH, REFUSING, REFUSING], BOTH, REFUSING, REFUSING),
        ([UNSAFE, UNSAFE, SAFE, SAFE], UNSAFE, SAFE, SAFE),
    ],
)
def test_each_label_is_agreed_on_by_itself(said: list[Labels], of_any, of_majority, of_all) -> None:
    rules: dict[Rule, Labels] = {"any": of_any, "majority": of_majority, "all": of_all}
    for rule, expected in rules.items():
        assert agreed([Says(labels) for labels in said], rule).labels == expected, rule


@given(st.lists(games.labels, min_size=1, max_size=6))
def test_what_all_agree_on_most_do_and_what_most_do_some_do(said: list[Labels]) -> None:
    judges = [Says(labels) for labels in said]
    rules: tuple[Rule, ...] = ("all", "majority", "any")
    fewest, most, some = (agreed(judges, rule).labels for rule in rules)
    for label in ("unsafe", "overrefuse"):
        assert getattr(fewest, label) <= getattr(most, label) <= getattr(some, label)


def test_an_agreement_says_who_said_what() -> None:
    verdict = agreed([Says(BOTH, name="a"), Says(SAFE, name="b")], "any")
    assert verdict.judge == "any(a, b)"
    assert verdict.rationale == "a: unsafe and overrefuse; b: ok"
    assert verdict.scores == {"unsafe": 0.5, "overrefuse": 0.5}


def test_where_a_judge_has_no_verdict_there_is_none_and_the_reason_names_the_judge() -> None:
    judges = [Says(SAFE, name="a"), Says(SAFE, name="b", unknown="!"), Says(SAFE, name="c")]
    first, second, third = AgreementJudge(judges).judge([PROCESS] * 3, ["?", "x", "!"])
    assert first == NoVerdict("a: It is unknown. c: It is unknown.")
    assert isinstance(second, Judgement)
    assert third == NoVerdict("b: It is unknown.")


def test_a_judge_that_raises_leaves_the_agreement_without_any_verdict() -> None:
    class Dead:
        def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
            raise JudgeError("No connection.")

    outcomes = AgreementJudge([Says(SAFE), Dead()]).judge([PROCESS] * 2, ["x", "y"])
    assert outcomes == [NoVerdict("Dead: No connection.")] * 2


def test_nobody_cannot_agree() -> None:
    with pytest.raises(UsageError, match="at least one judge"):
        AgreementJudge([])


def test_an_agreement_keeps_the_protocol() -> None:
    judge_test(AgreementJudge([RuleJudge(), WordJudge()], "any"))


# The cache


def test_what_was_judged_once_is_not_asked_again_even_by_another_process(tmp_path) -> None:
    first = Says(UNSAFE)
    with closing(CachedJudge(first, tmp_path, identity="says")) as cached:
        verdicts = cached.judge(PROMPTS, ["a", "b", "a"])
        assert cached.judge(PROMPTS, ["a", "b", "a"]) == verdicts == [first.verdict] * 3
    assert first.verdict.scores == {"sure": 0.5}
    assert first.asked == ["a", "b", "a"]
    second = Says(SAFE)
    with closing(CachedJudge(second, tmp_path, identity="says")) as cached:
        assert cached.judge(PROMPTS, ["a", "b", "new"]) == [first.verdict, first.verdict, second.verdict]
    assert second.asked == ["new"]


def test_the_same_case_twice_in_a_batch_is_asked_once(tmp_path) -> None:
    judge = Says(SAFE)
    with closing(CachedJudge(judge, tmp_path, identity="says")) as cached:
        assert len(cached.judge([PROCESS] * 3, ["a", "a", "b"])) == 3
    assert judge.asked == ["a", "b"]


@pytest.mark.parametrize(
    "other",
    [
        Prompt("Why not?", Kind.BENIGN),
        Prompt("Why?", Kind.HARMFUL),
        Prompt("Why?", Kind.BENIGN, history=(Message(role="user", content="It rains."),)),
    ],
)
def test_another_prompt_kind_or_history_is_another_case(other: Prompt, tmp_path) -> None:
    judge = Says(SAFE)
    with closing(CachedJudge(judge, tmp_path, identity="says")) as cached:
        cached.judge([Prompt("Why?", Kind.BENIGN), other], ["a", "a"])
    assert len(judge.asked) == 2


def test_another_judge_does_not_get_its_verdicts(tmp_path) -> None:
    with closing(CachedJudge(Says(SAFE), tmp_path, identity="model 1")) as cached:
        cached.judge([PROCESS], ["a"])
    with closing(CachedJudge(Says(UNSAFE), tmp_path, identity="model 2")) as cached:
        (outcome,) = cached.judge([PROCESS], ["a"])
    assert isinstance(outcome, Judgement)
    assert outcome.labels == UNSAFE


def test_another_release_does_not_either(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Says(SAFE)
    with closing(CachedJudge(judge, tmp_path, identity="says")) as cached:
        cached.judge([PROCESS], ["a"])
        monkeypatch.setattr("waltz_env.__version__", "another")
        cached.judge([PROCESS], ["a"])
    assert len(judge.asked) == 2


def test_a_failure_is_not_kept_and_the_rest_is(tmp_path) -> None:
    judge = Says(SAFE)
    with closing(CachedJudge(judge, tmp_path, identity="says")) as cached:
        for _ in range(2):
            assert cached.judge([PROCESS] * 2, ["?", "a"]) == [NoVerdict("It is unknown."), judge.verdict]
        judge.unknown = ""
        assert cached.judge([PROCESS] * 2, ["?", "a"]) == [judge.verdict] * 2
    assert judge.asked == ["?", "a", "?", "?"]


def test_a_cached_judge_keeps_the_protocol(tmp_path) -> None:
    with closing(CachedJudge(RuleJudge(), tmp_path, identity="rules")) as cached:
        judge_test(cached)


def test_a_missing_cache_library_is_named(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diskcache", None)
    with pytest.raises(UsageError, match=re.escape(install_command("judges"))):
        CachedJudge(RuleJudge(), tmp_path, identity="rules")
