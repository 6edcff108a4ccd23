import logging
import random
from collections.abc import Sequence
from pathlib import Path
from threading import Event

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import waltz_env
from tests.games import (
    BAD,
    BOMB,
    FINE,
    HOSTILE,
    PROCESS,
    PROMPTS,
    REFUSAL,
    SAFE,
    UNSAFE,
    RandomSpeaker,
    Speaker,
    WordJudge,
)
from waltz_env.env import WaltzSafetyEnv
from waltz_env.errors import JudgeError, UnreadablePromptError, UsageError, UsageTypeError
from waltz_env.feedback import format_feedback
from waltz_env.game import Game
from waltz_env.judging import judge_games
from waltz_env.protocols import Agent
from waltz_env.rollout import finish, play
from waltz_env.rules import Rules
from waltz_env.types import (
    CONVERSATION,
    FEEDBACK,
    AgentID,
    Completion,
    Judgement,
    Kind,
    Labels,
    NoVerdict,
    Observation,
    Prompt,
)

FLAG = format_feedback(UNSAFE, "Take the recipe out.")
PASS = format_feedback(SAFE, "")


class PassFirst:
    """Flags what was asked about bombs, passes everything else."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        self.batches.append([o["prompt"] for o in observations])
        return [Completion(FLAG if "bomb" in o["prompt"] else PASS) for o in observations]


class PatchyJudge:
    """Judges as ``WordJudge`` does, but has no verdict on some responses."""

    def __init__(self, fails: Sequence[bool]) -> None:
        self.fails = fails

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement | NoVerdict]:
        verdicts = WordJudge().judge(prompts, responses)
        return [NoVerdict("No answer.") if fail else v for fail, v in zip(self.fails, verdicts, strict=True)]


class CountingJudge(WordJudge):
    def __init__(self) -> None:
        self.batches: list[int] = []

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
        self.batches.append(len(responses))
        return super().judge(prompts, responses)


def test_a_game_is_played_and_judged() -> None:
    (game,) = play([BOMB], {CONVERSATION: Speaker(BAD, FINE), FEEDBACK: Speaker(FLAG)}, judge=WordJudge())
    assert game.prompt is BOMB
    assert [r.text for r in game.responses] == [BAD, FINE]
    assert [r.judgement for r in game.responses] == [Judgement(UNSAFE, "words"), Judgement(SAFE, "words")]
    assert game.critiques[0].feedback.advice == "Take the recipe out."


def test_there_is_one_call_for_each_role_and_phase_and_one_of_the_judge() -> None:
    conversation, feedback, judge = Speaker(BAD, FINE), PassFirst(), CountingJudge()
    play([BOMB, PROCESS, BOMB], {CONVERSATION: conversation, FEEDBACK: feedback}, judge=judge)
    assert conversation.batches == [3, 2]
    assert feedback.batches == [[BOMB.text, PROCESS.text, BOMB.text]]
    assert judge.batches == [5]


def test_games_that_ended_are_not_asked_about_again() -> None:
    feedback = PassFirst()
    games = play(
        [PROCESS, BOMB], {CONVERSATION: Speaker("a", "b", "c", "d"), FEEDBACK: feedback}, rules=Rules(max_rounds=3)
    )
    assert feedback.batches == [[PROCESS.text, BOMB.text], [BOMB.text], [BOMB.text]]
    assert [[r.text for r in game.responses] for game in games] == [["a"], ["a", "b", "c", "d"]]


def test_without_a_judge_nothing_is_judged() -> None:
    (game,) = play([BOMB], {CONVERSATION: Speaker(BAD), FEEDBACK: Speaker(PASS)})
    assert [r.judgement for r in game.responses] == [None]
    assert not game.judged


def test_without_rounds_no_feedback_agent_is_needed() -> None:
    (game,) = play([BOMB], {CONVERSATION: Speaker(BAD)}, judge=WordJudge(), rules=Rules(max_rounds=0))
    assert (len(game.responses), len(game.critiques), game.judged) == (1, 0, True)


def test_no_prompts_are_no_games_and_ask_nobody() -> None:
    judge = CountingJudge()
    assert play([], {CONVERSATION: Speaker(), FEEDBACK: Speaker()}, judge=judge) == []
    assert judge.batches == []


def test_prompts_may_come_from_an_iterator() -> None:
    assert len(play(iter(PROMPTS), {CONVERSATION: Speaker("a")}, rules=Rules(max_rounds=0))) == 3


def test_long_actions_are_cut() -> None:
    (game,) = play([BOMB], {CONVERSATION: Speaker("abcdef")}, rules=Rules(max_rounds=0, max_chars=2))
    assert game.final.completion == Completion("ab", "cut")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_any_string_is_played_judged_stored_and_read_back(tmp_path: Path, text: str) -> None:
    advised = format_feedback(UNSAFE, text[:1_000])
    agents = {CONVERSATION: Speaker(text, text), FEEDBACK: Speaker(advised)}
    games = play([BOMB, PROCESS], agents, judge=waltz_env.RefusalJudge())
    games += play([PROCESS], {CONVERSATION: Speaker(text), FEEDBACK: Speaker(text)}, judge=waltz_env.RefusalJudge())
    assert [len(game.responses) for game in games] == [2, 2, 1]
    assert all(game.judged for game in games)
    waltz_env.write_games(tmp_path / "games.jsonl", games)
    assert waltz_env.read_games(tmp_path / "games.jsonl") == games


@pytest.mark.parametrize(
    ("agents", "message"),
    [
        ({}, r"needs an agent 'conversation_0'; got none"),
        ({CONVERSATION: Speaker()}, r"needs an agent 'feedback_0'; got 'conversation_0'.*or set max_rounds=0"),
        (
            {CONVERSATION: Speaker(), "feedback": Speaker()},
            r"Unknown agent 'feedback'\. Did you mean 'feedback_0'\?",
        ),
    ],
)
def test_missing_and_unknown_agents_are_named(agents: dict[AgentID, Agent], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        play([BOMB], agents)


class Silent:
    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        return [Completion("one")]


class Numbers:
    def act(self, observations: Sequence[Observation]) -> list[int]:
        return [1] * len(observations)


class DeafJudge:
    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
        return []


def test_an_agent_that_answers_too_little_is_named() -> None:
    with pytest.raises(UsageError, match=r"'conversation_0' was given 2 observations and answered with 1 comp"):
        play([BOMB, PROCESS], {CONVERSATION: Silent()}, rules=Rules(max_rounds=0))


def test_an_agent_that_gives_no_text_is_named() -> None:
    with pytest.raises(UsageTypeError, match="conversation_0 gave 1"):
        play([BOMB], {CONVERSATION: Numbers()}, rules=Rules(max_rounds=0))  # type: ignore[dict-item]


def test_a_judge_that_answers_too_little_is_named() -> None:
    with pytest.raises(UsageError, match="DeafJudge was asked about 1 responses and gave 0 verdicts"):
        play([BOMB], {CONVERSATION: Speaker("a")}, judge=DeafJudge(), rules=Rules(max_rounds=0))


def test_responses_that_the_judge_failed_on_stay_unjudged(caplog: pytest.LogCaptureFixture) -> None:
    agents = {CONVERSATION: Speaker(BAD, FINE), FEEDBACK: Speaker(FLAG)}
    with caplog.at_level(logging.WARNING):
        games = play([BOMB, BOMB], agents, judge=PatchyJudge([False, False, False, True]))
    assert [game.judged for game in games] == [True, False]
    assert [response.labels for response in games[1].responses] == [UNSAFE, None]
    assert games[1].final.judgement == NoVerdict("No answer.")
    assert "1 of 4 responses have no verdict. The most frequent reason (1): No answer." in caplog.text


def test_a_judge_that_failed_altogether_leaves_all_unjudged() -> None:
    class Dead:
        def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
            raise JudgeError("no connection")

    games = play(PROMPTS, {CONVERSATION: Speaker(BAD)}, judge=Dead(), rules=Rules(max_rounds=0))
    assert [game.final.judgement for game in games] == [NoVerdict("no connection")] * 3


def test_other_errors_of_a_judge_are_the_caller_s() -> None:
    class Broken:
        def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        play([BOMB], {CONVERSATION: Speaker(BAD)}, judge=Broken(), rules=Rules(max_rounds=0))


def test_played_games_can_be_judged_again() -> None:
    class Strict:
        def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
            return [Judgement(Labels(True, True), "strict") for _ in responses]

    games = play(PROMPTS, {CONVERSATION: Speaker(BAD, FINE), FEEDBACK: PassFirst()}, judge=WordJudge())
    again = judge_games(games, Strict())
    assert all(r.judgement == Judgement(Labels(True, True), "strict") for game in again for r in game.responses)
    assert [[r.completion for r in game.responses] for game in again] == [
        [r.completion for r in game.responses] for game in games
    ]
    assert judge_games(again, WordJudge()) == games


WAIT = 60.0  # seconds until what should happen at once counts as not happening


def begun(*texts: str) -> Game:
    game = Game(BOMB)
    for text in texts:
        game.act(text)
    return game


def test_games_that_have_begun_are_played_on_from_where_they_stand_and_judged() -> None:
    games = [begun(), begun(BAD), begun(BAD, FLAG), begun(BAD, PASS)]
    feedback = PassFirst()
    finished = finish(games, {CONVERSATION: Speaker(FINE, REFUSAL), FEEDBACK: feedback}, judge=WordJudge())
    assert [[r.text for r in game.responses] for game in finished] == [
        [FINE, REFUSAL],
        [BAD, REFUSAL],
        [BAD, REFUSAL],
        [BAD],
    ]
    assert [len(batch) for batch in feedback.batches] == [2]
    assert all(game.judged for game in finished)


def test_a_role_is_needed_only_where_its_turn_comes() -> None:
    (finished,) = finish([begun(BAD, FLAG)], {CONVERSATION: Speaker("", FINE)})
    assert finished.final.text == FINE
    with pytest.raises(UsageError, match="turn of 'feedback_0', and `agents` has 'conversation_0'"):
        finish([begun(BAD)], {CONVERSATION: Speaker(FINE)})


def test_drafts_are_judged_while_the_feedback_agent_is_at_work() -> None:
    judging, criticising = Event(), Event()

    class WaitsForTheJudge(PassFirst):
        def act(self, observations: Sequence[Observation]) -> list[Completion]:
            criticising.set()
            assert judging.wait(WAIT)
            return super().act(observations)

    class WaitsForFeedback(CountingJudge):
        def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
            judging.set()
            assert criticising.wait(WAIT)
            return super().judge(prompts, responses)

    judge = WaitsForFeedback()
    agents: dict[AgentID, Agent] = {CONVERSATION: Speaker(BAD, FINE), FEEDBACK: WaitsForTheJudge()}
    games = play(PROMPTS, agents, judge=judge, overlap_judge=True)
    assert judge.batches == [3, 1]
    assert games == play(PROMPTS, {CONVERSATION: Speaker(BAD, FINE), FEEDBACK: PassFirst()}, judge=WordJudge())


def test_a_judge_that_fails_while_the_agents_go_on_leaves_those_responses_unjudged() -> None:
    class NoDrafts(WordJudge):
        def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
            if BAD in responses:
                raise JudgeError("no connection")
            return super().judge(prompts, responses)

    agents: dict[AgentID, Agent] = {CONVERSATION: Speaker(BAD, FINE), FEEDBACK: PassFirst()}
    games = play([PROCESS, BOMB], agents, judge=NoDrafts(), overlap_judge=True)
    assert [[response.labels for response in game.responses] for game in games] == [[None], [None, SAFE]]
    assert games[0].final.judgement == NoVerdict("no connection")


def test_errors_of_a_judge_in_its_thread_are_the_caller_s() -> None:
    with pytest.raises(UsageError, match="DeafJudge was asked about 1 responses and gave 0 verdicts"):
        play([BOMB], {CONVERSATION: Speaker("a")}, judge=DeafJudge(), rules=Rules(max_rounds=0), overlap_judge=True)


def step_through(prompt: Prompt, agents: dict[AgentID, Agent], rounds: int) -> waltz_env.Trajectory:
    """The same game through the environment, one step at a time."""
    env = WaltzSafetyEnv([prompt], WordJudge(), max_rounds=rounds, max_chars=200)
    observations, _ = env.reset(seed=0)
    while env.agents:
        acting = next(agent for agent in env.agents if observations[agent]["active"])
        (completion,) = agents[acting].act([observations[acting]])
        observations, *_ = env.step({acting: completion.text})
    return env.trajectory()


@given(st.integers(0, 2**32), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_play_and_the_environment_play_the_same_game(seed: int, rounds: int) -> None:
    agents: dict[AgentID, Agent] = {CONVERSATION: RandomSpeaker(seed), FEEDBACK: RandomSpeaker(seed + 1)}
    prompts = random.Random(seed).choices(PROMPTS, k=4)
    together = play(prompts, agents, judge=WordJudge(), rules=Rules(max_rounds=rounds, max_chars=200))
    assert together == [step_through(prompt, agents, rounds) for prompt in prompts]
    assert together == play(
        prompts, agents, judge=WordJudge(), rules=Rules(max_rounds=rounds, max_chars=200), overlap_judge=True
    )


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_scripted_play_and_environment_agree(rounds: int) -> None:
    agents: dict[AgentID, Agent] = {CONVERSATION: Speaker(BAD, REFUSAL, FINE), FEEDBACK: PassFirst()}
    assert play(PROMPTS, agents, judge=WordJudge(), rules=Rules(max_rounds=rounds)) == [
        step_through(p, agents, rounds) for p in PROMPTS
    ]


class Reader:
    """Speaks, unless it cannot read a prompt: those that hold "long", which some agents find before they have acted."""

    def __init__(self, *, acts_on_the_rest: bool) -> None:
        self.acts_on_the_rest = acts_on_the_rest

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        texts = [f"{o['prompt']} {' '.join(o['responses'])}" for o in observations]
        rows = [row for row, text in enumerate(texts) if "long" in text]
        answers = [Completion(PASS if o["agent"] == FEEDBACK else o["prompt"]) for o in observations]
        if rows:
            partial = [None if row in rows else answer for row, answer in enumerate(answers)]
            raise UnreadablePromptError(
                "Too long.", kind="too_long", rows=rows, partial=partial if self.acts_on_the_rest else ()
            )
        return answers


MIXED = [Prompt(text, Kind.BENIGN, id=f"id of {text}") for text in ("first", "too long", "third")]


@pytest.mark.parametrize("overlap_judge", [False, True])
@pytest.mark.parametrize("acts_on_the_rest", [False, True])
def test_prompts_that_a_model_cannot_read_are_left_out_if_asked_to_and_counted(
    acts_on_the_rest: bool, overlap_judge: bool, caplog: pytest.LogCaptureFixture
) -> None:
    reader = Reader(acts_on_the_rest=acts_on_the_rest)
    agents = {CONVERSATION: reader, FEEDBACK: reader}
    games = play(MIXED, agents, judge=WordJudge(), overlap_judge=overlap_judge, exclude_unreadable=True)
    assert games == play([MIXED[0], MIXED[2]], agents, judge=WordJudge())
    assert len(games) == 2
    assert "1 of 3 games are left out" in caplog.text
    assert play(MIXED[1:2], agents, judge=WordJudge(), exclude_unreadable=True) == []


@pytest.mark.parametrize("acts_on_the_rest", [False, True])
def test_a_prompt_that_a_model_cannot_read_is_an_error_with_its_id(acts_on_the_rest: bool) -> None:
    reader = Reader(acts_on_the_rest=acts_on_the_rest)
    with pytest.raises(UnreadablePromptError, match=r"^conversation_0: Too long\. Prompts: id of too long\.$"):
        play(MIXED, {CONVERSATION: reader, FEEDBACK: reader})
    with pytest.raises(UnreadablePromptError, match="Prompts: 'too long'"):
        play([Prompt("too long", Kind.BENIGN)], {CONVERSATION: reader, FEEDBACK: reader})


def test_a_game_that_becomes_too_long_for_one_agent_is_left_out_as_a_whole() -> None:
    agents: dict[AgentID, Agent] = {CONVERSATION: Speaker("a long draft"), FEEDBACK: Reader(acts_on_the_rest=False)}
    assert play(MIXED[:1], agents, judge=WordJudge(), overlap_judge=True, exclude_unreadable=True) == []
    with pytest.raises(UnreadablePromptError, match="^feedback_0: "):
        play(MIXED[:1], agents)
