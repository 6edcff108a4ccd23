import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.games import BOMB, PROMPTS, REFUSING, SAFE, UNSAFE, any_text
from waltz_env.errors import UsageError, UsageTypeError
from waltz_env.feedback import format_feedback
from waltz_env.game import Game
from waltz_env.rules import Rules
from waltz_env.types import CONVERSATION, FEEDBACK, Completion, Judgement

FLAG = format_feedback(UNSAFE, "Take the recipe out.", "It teaches harm.")
PASS = format_feedback(SAFE, "")


def turns(game: Game, *actions: str) -> list[str | None]:
    """Whose turn it is before each action, and after the last."""
    seen = []
    for action in actions:
        seen.append(game.turn)
        game.act(action)
    return [*seen, game.turn]


def test_the_paper_s_game_is_draft_feedback_revision() -> None:
    assert turns(Game(BOMB), "c0", FLAG, "c1") == [CONVERSATION, FEEDBACK, CONVERSATION, None]


@pytest.mark.parametrize("feedback", [PASS, "no JSON", ""], ids=["nothing flagged", "malformed", "empty"])
def test_feedback_that_asks_for_no_revision_ends_the_game(feedback: str) -> None:
    assert turns(Game(BOMB, Rules(max_rounds=3)), "c0", feedback) == [CONVERSATION, FEEDBACK, None]


def test_either_flag_asks_for_a_revision() -> None:
    assert turns(Game(BOMB), "c0", format_feedback(REFUSING, ""))[-1] == CONVERSATION


def test_without_rounds_there_is_the_first_response_alone() -> None:
    assert turns(Game(BOMB, Rules(max_rounds=0)), "c0") == [CONVERSATION, None]


def test_several_rounds_end_with_a_response_that_nobody_criticises() -> None:
    game = Game(BOMB, Rules(max_rounds=2))
    assert turns(game, "c0", FLAG, "c1", FLAG, "c2")[-2:] == [CONVERSATION, None]
    assert (len(game.trajectory().responses), len(game.trajectory().critiques)) == (3, 2)


def test_an_ended_game_takes_no_action() -> None:
    game = Game(BOMB, Rules(max_rounds=0))
    game.act("c0")
    with pytest.raises(UsageError, match="has ended"):
        game.act("c1")


def test_the_conversation_agent_sees_of_the_feedback_its_advice_alone() -> None:
    game = Game(BOMB)
    turns(game, "c0", FLAG)
    assert game.observe(CONVERSATION) == {
        "agent": CONVERSATION,
        "active": 1,
        "prompt": BOMB.text,
        "history": (),
        "responses": ("c0",),
        "feedback": ("Take the recipe out.",),
    }
    assert game.observe(FEEDBACK)["active"] == 0


def test_the_history_is_shown() -> None:
    assert Game(PROMPTS[2]).observe(CONVERSATION)["history"] == ({"role": "user", "content": "It rains."},)


def test_malformed_feedback_gives_no_advice() -> None:
    game = Game(BOMB)
    turns(game, "c0", "You must rewrite this.")
    assert game.observe(CONVERSATION)["feedback"] == ("",)


def test_a_long_action_is_cut_and_marked() -> None:
    game = Game(BOMB, Rules(max_rounds=0, max_chars=3))
    game.act(Completion("abcdef", token_ids=(1, 2)))
    assert game.trajectory().final.completion == Completion("abc", "cut", token_ids=(1, 2))
    assert game.trajectory().final.completion.truncated


def test_an_action_at_the_limit_is_left_whole() -> None:
    game = Game(BOMB, Rules(max_rounds=0, max_chars=3))
    game.act("abc")
    assert game.trajectory().final.completion == Completion("abc", "stop")


def test_feedback_that_loses_its_end_to_the_limit_is_malformed() -> None:
    game = Game(BOMB, Rules(max_chars=len(FLAG) - 1))
    turns(game, "c0", FLAG)
    assert game.turn is None
    assert not game.trajectory().critiques[0].feedback.well_formed


@pytest.mark.parametrize("action", [None, 3, b"bytes", ["text"]])
def test_an_action_that_is_no_text_is_refused_by_name(action: object) -> None:
    game = Game(BOMB)
    with pytest.raises(UsageTypeError, match=r"must be a string; conversation_0 gave"):
        game.act(action)  # type: ignore[arg-type]
    assert game.turn == CONVERSATION


def test_a_verdict_is_put_on_the_latest_response() -> None:
    game = Game(BOMB)
    game.act("c0")
    game.judge(Judgement(UNSAFE, "hand"))
    turns(game, FLAG, "c1")
    first, final = game.trajectory().responses
    assert first.judgement == Judgement(UNSAFE, "hand")
    assert final.judgement is None
    assert not game.trajectory().judged


def test_revisions_pair_each_response_with_the_feedback_and_what_came_of_it() -> None:
    game = Game(BOMB, Rules(max_rounds=3))
    turns(game, "c0", FLAG, "c1", FLAG, "c2", PASS)
    revisions = [(a.text, f.completion.text, b.text) for a, f, b in game.trajectory().revisions()]
    assert revisions == [("c0", FLAG, "c1"), ("c1", FLAG, "c2")]
    assert game.trajectory().triggered


@given(st.lists(any_text | st.sampled_from([FLAG, PASS]), max_size=8), st.integers(0, 3))
def test_whatever_is_said_responses_lead_critiques_by_none_or_one(actions: list[str], rounds: int) -> None:
    game = Game(BOMB, Rules(max_rounds=rounds))
    for action in actions:
        if game.turn is None:
            break
        game.act(action)
        trajectory = game.trajectory()
        assert len(trajectory.responses) - len(trajectory.critiques) in (0, 1)
        assert len(trajectory.critiques) <= rounds
        assert [game.observe(agent)["active"] for agent in (CONVERSATION, FEEDBACK)].count(1) == (game.turn is not None)
