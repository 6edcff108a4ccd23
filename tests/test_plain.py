"""What judges and agents of one's own return is looked at once, where it enters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import waltz_env
from tests.games import BOMB, FINE, SAFE, Speaker, WordJudge
from waltz_env.env import WaltzSafetyEnv
from waltz_env.errors import UsageError, UsageTypeError
from waltz_env.evaluation import rates
from waltz_env.feedback import format_feedback
from waltz_env.game import Game
from waltz_env.judges import AgreementJudge, CachedJudge
from waltz_env.judging import ask, judge_games
from waltz_env.protocols import Judge
from waltz_env.records import encode_game, read_games, write_games
from waltz_env.rollout import play
from waltz_env.types import (
    AGENTS,
    CONVERSATION,
    FEEDBACK,
    Completion,
    Judgement,
    Kind,
    Labels,
    NoVerdict,
    Observation,
    Prompt,
    Response,
    Trajectory,
)

AGENTS_OF_ONE_ROUND = {
    CONVERSATION: Speaker(FINE, FINE),
    FEEDBACK: Speaker(format_feedback(SAFE, "Well done.")),
}

TRUE = [True, 1, np.bool_(True), np.int8(1), np.array(True), torch.tensor(True), torch.tensor(1)]
NUMBERS = [
    0.5,
    np.float32(0.5),
    np.float16(0.5),
    np.array(0.5),
    torch.tensor(0.5),
    torch.tensor(0.5, dtype=torch.bfloat16),
    Fraction(1, 2),
    Decimal("0.5"),
]
WHOLE_NUMBERS = [3, True, np.int64(3), np.uint8(3), torch.tensor(3)]
NOT_BOOLS: list[Any] = [
    None,
    "true",
    "False",
    2,
    -1,
    0.0,
    1.5,
    math.nan,
    [True],
    np.array([True]),
    np.float32(1.0),
    SAFE,
]
NOT_NUMBERS: list[Any] = [None, "0.5", b"1", [0.5], np.array([0.5, 1]), torch.tensor([0.5]), 1j, {"a": 1}, 10**400]


class Says:
    """Answers with the same object for every response."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Any]:
        return [self.outcome] * len(responses)


def judgement(unsafe: Any = False, overrefuse: Any = False, **fields: Any) -> Judgement:
    return Judgement(Labels(unsafe, overrefuse), **{"judge": "mine", **fields})


def through_the_environment(judge: Judge) -> Judgement | NoVerdict | None:
    env = WaltzSafetyEnv([BOMB], judge)
    env.reset(seed=0)
    env.step({CONVERSATION: FINE})
    env.step({FEEDBACK: format_feedback(SAFE, "")})
    return env.trajectory().final.judgement


def through_play(judge: Judge) -> Judgement | NoVerdict | None:
    return play([BOMB], AGENTS_OF_ONE_ROUND, judge=judge)[0].final.judgement


def through_play_ahead(judge: Judge) -> Judgement | NoVerdict | None:
    return play([BOMB], AGENTS_OF_ONE_ROUND, judge=judge, overlap_judge=True)[0].final.judgement


def through_judging_again(judge: Judge) -> Judgement | NoVerdict | None:
    return judge_games(play([BOMB], AGENTS_OF_ONE_ROUND), judge)[0].final.judgement


def through_an_agreement(judge: Judge) -> Judgement | NoVerdict | None:
    AgreementJudge([judge, WordJudge()]).judge([BOMB], [FINE])
    return ask(judge, [BOMB], [FINE])[0]


DOORS = [through_the_environment, through_play, through_play_ahead, through_judging_again, through_an_agreement]
doors = pytest.mark.parametrize("enter", DOORS, ids=lambda door: door.__name__)


@doors
@pytest.mark.parametrize("true", TRUE, ids=repr)
def test_what_is_clearly_a_bool_becomes_one(enter: Callable[[Judge], Judgement], true: Any) -> None:
    found = enter(Says(judgement(unsafe=true, overrefuse=true)))
    assert (type(found.labels.unsafe), found.labels) == (bool, Labels(unsafe=True, overrefuse=True))
    assert type(found.labels.overrefuse) is bool


@doors
@pytest.mark.parametrize("number", [*NUMBERS, *WHOLE_NUMBERS, math.nan, np.float64("nan"), math.inf], ids=repr)
def test_what_is_clearly_a_number_becomes_a_float(enter: Callable[[Judge], Judgement], number: Any) -> None:
    found = enter(Says(judgement(scores={"p": number})))
    assert type(found.scores["p"]) is float
    assert found.scores["p"] == pytest.approx(float(number), nan_ok=True)


NOT_LABELS: list[Any] = [None, (True, False), {"unsafe": True}, True]
NOT_STRINGS: list[Any] = [None, 3, b"mine", ["because"], ValueError("why")]
WRONG: list[tuple[str, Any]] = [
    *(("labels.unsafe", judgement(unsafe=value)) for value in NOT_BOOLS),
    *(("labels.overrefuse", judgement(overrefuse=value)) for value in NOT_BOOLS),
    *(("scores", judgement(scores={"p": value})) for value in NOT_NUMBERS),
    *(("scores", judgement(scores=value)) for value in (None, [0.5], 0.5, "p")),
    ("a name in Judgement.scores", judgement(scores={1: 0.5})),
    *(("Judgement.judge", judgement(judge=value)) for value in NOT_STRINGS),
    *(("Judgement.rationale", judgement(rationale=value)) for value in NOT_STRINGS),
    *(("Judgement.labels", Judgement(value, "mine")) for value in NOT_LABELS),
    *(("NoVerdict.reason", NoVerdict(value)) for value in NOT_STRINGS),
    *(("expected a Judgement", value) for value in (None, True, SAFE, "unsafe", {"labels": SAFE}, Judgement)),
]


@doors
@pytest.mark.parametrize(("field", "outcome"), WRONG, ids=lambda value: repr(value)[:60])
def test_anything_else_is_an_error_that_names_judge_and_field(
    enter: Callable[[Judge], object], field: str, outcome: Any
) -> None:
    with pytest.raises(UsageTypeError, match=r"The judge Says, answer 1 of [12]: ") as error:
        enter(Says(outcome))
    assert field in str(error.value)


@pytest.mark.parametrize("answer", [None, True, 3, judgement(), NoVerdict("all of them")], ids=repr)
def test_a_judge_that_returns_no_sequence_is_named(answer: Any) -> None:
    class Odd:
        def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Any:
            return answer

    with pytest.raises(UsageTypeError, match="The judge Odd must return one judgement for each response"):
        ask(Odd(), [BOMB], [FINE])


def test_lazy_answers_work_and_may_fail_late() -> None:
    class Lazy:
        def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Iterator[Judgement]:
            for response in responses:
                if response != FINE:
                    raise waltz_env.JudgeError("No connection.")
                yield judgement()

    assert ask(Lazy(), [BOMB], [FINE]) == [judgement()]  # type: ignore[arg-type]
    assert ask(Lazy(), [BOMB, BOMB], [FINE, ""]) == [NoVerdict("No connection.")] * 2  # type: ignore[arg-type]


def test_what_is_plain_already_stays_the_same_object() -> None:
    outcome = judgement(scores={"p": 0.5})
    assert ask(Says(outcome), [BOMB], [FINE])[0] is outcome


def test_the_environment_loses_the_game_and_goes_on_after_a_reset() -> None:
    judge = Says(judgement(unsafe="no"))
    env = waltz_env.make("WaltzSafety-v0", prompts=[BOMB], judge=judge)
    env.reset(seed=0)
    with pytest.raises(UsageTypeError):
        env.step({CONVERSATION: FINE})
    assert env.agents == []
    judge.outcome = judgement()
    env.reset()
    assert env.step({CONVERSATION: FINE})[1][CONVERSATION] == 1.0


@pytest.mark.parametrize("true", TRUE, ids=repr)
@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_what_is_written_is_read_back_equal(true: Any, number: Any, tmp_path: Path) -> None:
    outcome = judgement(true, true, scores={np.str_("p"): number}, rationale=Kind.BENIGN)
    by_hand = Trajectory(BOMB, (Response(Completion(FINE), outcome),), ())
    games = [*play([BOMB], AGENTS_OF_ONE_ROUND, judge=Says(outcome)), by_hand]
    write_games(tmp_path / "games.jsonl", games)
    stored = read_games(tmp_path / "games.jsonl")
    assert stored[0] == games[0]
    assert stored[1].final.judgement == ask(Says(outcome), [BOMB], [FINE])[0]
    assert rates(stored)["asr"].value == 1.0


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_a_cache_on_disk_keeps_such_judgements(number: Any, tmp_path: Path) -> None:
    judge = CachedJudge(Says(judgement(np.bool_(True), scores={"p": number})), tmp_path, identity="mine")
    first, second = (ask(judge, [BOMB], [FINE]) for _ in range(2))
    judge.close()
    assert first == second == [judgement(True, scores={"p": 0.5})]


@pytest.mark.parametrize(("field", "outcome"), WRONG, ids=lambda value: repr(value)[:60])
def test_a_game_made_by_hand_that_could_not_be_read_is_not_written(field: str, outcome: Any, tmp_path: Path) -> None:
    if outcome is None:
        return  # not judged
    path = tmp_path / "games.jsonl"
    with pytest.raises(UsageTypeError, match=field):
        write_games(path, [Trajectory(BOMB, (Response(Completion(FINE), outcome),), ())])
    assert not path.exists()


# Agents


class Acts:
    """Gives the same completion for every observation."""

    def __init__(self, completion: Any) -> None:
        self.completion = completion

    def act(self, observations: Sequence[Observation]) -> list[Any]:
        return [self.completion] * len(observations)


PLAIN = Completion(FINE, "stop", (1, 2), (3,), (-0.5,), version=4)
SAME = [
    Completion(FINE, "stop", [1, 2], [3], [-0.5], version=4),  # type: ignore[arg-type]
    Completion(FINE, "stop", np.array([1, 2]), np.array([3]), np.float32([-0.5]), version=np.int64(4)),  # type: ignore[arg-type]
    Completion(FINE, "stop", torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([-0.5]), torch.tensor(4)),  # type: ignore[arg-type]
    Completion(FINE, "stop", (np.int32(1), 2), (np.uint8(3),), (np.float64(-0.5),), 4),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("completion", SAME)
def test_ids_and_log_probabilities_of_agents_become_plain_and_survive_in_files(
    completion: Completion, tmp_path: Path
) -> None:
    (game,) = play([BOMB], {agent: Acts(completion) for agent in AGENTS}, judge=WordJudge())
    assert game.final.completion == PLAIN
    write_games(tmp_path / "games.jsonl", [game])
    assert read_games(tmp_path / "games.jsonl") == [game]
    assert encode_game(game) == encode_game(
        play([BOMB], {agent: Acts(PLAIN) for agent in AGENTS}, judge=WordJudge())[0]
    )


@pytest.mark.parametrize(
    ("field", "completion"),
    [
        ("finish", Completion(FINE, "eos")),  # type: ignore[arg-type]
        ("finish", Completion(FINE, None)),  # type: ignore[arg-type]
        ("prompt_ids", Completion(FINE, prompt_ids="12")),  # type: ignore[arg-type]
        ("token_ids", Completion(FINE, token_ids=(1.5,))),  # type: ignore[arg-type]
        ("token_ids", Completion(FINE, token_ids=(True,))),
        ("token_ids", Completion(FINE, token_ids=5)),  # type: ignore[arg-type]
        ("token_ids", Completion(FINE, token_ids=torch.tensor([[1, 2]]))),  # type: ignore[arg-type]
        ("logprobs", Completion(FINE, logprobs=(None,))),  # type: ignore[arg-type]
        ("logprobs", Completion(FINE, logprobs=("-1",))),  # type: ignore[arg-type]
        ("version", Completion(FINE, version="4")),  # type: ignore[arg-type]
        ("version", Completion(FINE, version=None)),  # type: ignore[arg-type]
        ("string", Completion(None)),  # type: ignore[arg-type]
        ("string", Completion(b"bytes")),  # type: ignore[arg-type]
        ("string", None),
        ("string", {"text": FINE}),
    ],
)
def test_what_else_an_agent_gives_is_an_error_that_names_agent_and_field(field: str, completion: Any) -> None:
    with pytest.raises(UsageTypeError, match=f"conversation_0.*{field}|{field}.*conversation_0"):
        play([BOMB], {agent: Acts(completion) for agent in AGENTS})


# Prompts


@pytest.mark.parametrize("kind", ["harmful", np.str_("harmful"), Kind.HARMFUL])
def test_the_name_of_a_kind_is_that_kind(kind: Any, tmp_path: Path) -> None:
    prompt = Prompt("How?", kind)
    assert prompt.harmful
    assert prompt == Prompt("How?", Kind.HARMFUL)
    write_games(tmp_path / "games.jsonl", [Game(prompt).trajectory()])
    assert read_games(tmp_path / "games.jsonl")[0].prompt == prompt


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "toxic"},
        {"kind": True},
        {"kind": None},
        *({name: value} for name in ("text", "id", "category", "source", "topic") for value in (3, None, b"x")),
        {"history": ("Hello",)},
        {"history": ({"role": "user"},)},
        {"history": ({"role": "user", "content": None},)},
        {"history": ({"role": "user", "content": [{"type": "text", "text": "Hi"}]},)},
        {"history": ({"role": "user", "content": "Hi", "name": "Ann"},)},
    ],
    ids=repr,
)
def test_a_prompt_that_no_file_could_hold_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises((UsageError, UsageTypeError), match=f"prompt's {next(iter(fields))}"):
        Prompt(**{"text": "How?", "kind": Kind.BENIGN, **fields})


def test_a_history_may_be_any_sequence_of_messages() -> None:
    message = {"role": "user", "content": "Hi"}
    assert Prompt("How?", Kind.BENIGN, history=[message]) == Prompt("How?", Kind.BENIGN, history=(message,))  # type: ignore[arg-type]
