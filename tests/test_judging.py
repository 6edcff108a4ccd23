"""A response without a verdict: the reason that a judge gives is read wherever its games are."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.games import BAD, BOMB, FINE, PROCESS, UNSAFE, Speaker, WordJudge
from waltz_env.cli.tables import show
from waltz_env.errors import JudgeError
from waltz_env.evaluation import no_verdict_reasons, rates
from waltz_env.evaluation.metrics import NOT_RECORDED, OTHER_REASONS
from waltz_env.experiments.results import add_systems
from waltz_env.feedback import format_feedback
from waltz_env.judges import AgreementJudge, CachedJudge
from waltz_env.judging import ask
from waltz_env.records import encode_game, read_games, write_games
from waltz_env.report.games import content
from waltz_env.report.page import render
from waltz_env.report.source import read_source
from waltz_env.rollout import play
from waltz_env.run_folder import RunFolder
from waltz_env.types import CONVERSATION, FEEDBACK, Completion, Judgement, NoVerdict, Prompt, Response, Trajectory

REASON = "The model answered '[/bold] <b>well</b>'; expected yes or no."
RECORDED = f"hesitant: {REASON}"  # as the agreement passes it on


class Hesitant(WordJudge):
    """Has no verdict on what is unsafe."""

    name = "hesitant"

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement | NoVerdict]:  # type: ignore[override]
        judgements = super().judge(prompts, responses)
        return [NoVerdict(REASON) if judgement.labels.unsafe else judgement for judgement in judgements]


def unjudged(*reasons: str | None) -> list[Trajectory]:
    """One game per reason; None: no reason was stored."""
    outcomes = [None if reason is None else NoVerdict(reason) for reason in reasons]
    return [Trajectory(BOMB, (Response(Completion("c_0"), outcome),), ()) for outcome in outcomes]


@pytest.fixture
def games(tmp_path: Path) -> list[Trajectory]:
    """Two games, the first with an unjudged draft, judged by a cache of an agreement of one judge."""
    agents = {
        CONVERSATION: Speaker(BAD, FINE),
        FEEDBACK: Speaker(format_feedback(UNSAFE, "Take it out.")),
    }
    with closing(CachedJudge(AgreementJudge([Hesitant()]), tmp_path / "cache", identity="hesitant")) as judge:
        return play([BOMB, PROCESS], agents, judge=judge)


def test_the_reason_is_in_the_games_file(games: list[Trajectory], tmp_path: Path) -> None:
    assert games[0].responses[0].judgement == NoVerdict(RECORDED)
    write_games(tmp_path / "games.jsonl", games)
    assert read_games(tmp_path / "games.jsonl") == games
    assert json.loads(encode_game(games[0]))["responses"][0]["no_verdict"] == RECORDED


def test_the_reason_is_counted_in_the_results_and_printed(
    games: list[Trajectory], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rates(games)["judge_error_rate"].value == 1.0
    sets = add_systems(RunFolder(tmp_path), {"new": {"pair": games}})
    stored = json.loads(RunFolder(tmp_path).results.read_text("utf-8"))
    assert stored["sets"]["new"]["systems"]["pair"]["judge_error_rate"]["reasons"] == {RECORDED: 2}
    show(sets["sets"])
    assert f"  2 responses: {RECORDED}\n" in capsys.readouterr().out


def test_the_reason_is_in_the_report_in_its_game_and_below_the_rates(games: list[Trajectory], tmp_path: Path) -> None:
    add_systems(RunFolder(tmp_path), {"new": {"pair": games}})
    page = render([read_source(RunFolder(tmp_path), "run")])
    assert re.search(r"<td>2</td><td[^>]*>hesitant: The model answered &#39;\[/bold\] &lt;b&gt;well", page)
    assert content(games[0])["responses"][0]["no_verdict"] == RECORDED


def test_the_most_frequent_reasons_come_first_and_rare_ones_are_counted_together() -> None:
    games = unjudged("a", "b", "b", None, "c", None, "d", None)
    assert list(no_verdict_reasons(games).items())[:2] == [(NOT_RECORDED, 3), ("b", 2)]
    assert no_verdict_reasons(games, at_most=2) == {NOT_RECORDED: 3, "b": 2, OTHER_REASONS: 3}
    assert no_verdict_reasons([]) == {}


def test_the_reason_is_logged_once_however_many_judges_pass_it_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judge = AgreementJudge([AgreementJudge([Hesitant()])])
    with caplog.at_level(logging.WARNING):
        ask(judge, [BOMB, BOMB], [BAD, FINE])
    (record,) = caplog.records
    assert "1 of 2 responses have no verdict" in record.getMessage()
    assert REASON in record.getMessage()


def test_a_judge_that_raises_has_no_verdict_on_its_whole_batch() -> None:
    class Dead:
        def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
            raise JudgeError("No connection.")

    assert ask(Dead(), [BOMB, PROCESS], [BAD, FINE]) == [NoVerdict("No connection.")] * 2
