"""The pair in use: the same game as in training, and an answer whatever the agents do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.games import BOTH, FINE, REFUSING, SAFE, UNSAFE, RandomSpeaker, Speaker, critique
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env import CONVERSATION, FEEDBACK, Completion, UsageError, play
from waltz_env.agents.templates import CONVERSATION_SYSTEM, conversation_messages
from waltz_env.errors import AgentError, UnreadablePromptError
from waltz_env.game import Game
from waltz_env.presets import lora_pair
from waltz_env.rules import Rules
from waltz_env.serving import Batcher, Duet, Failure, chat_prompt
from waltz_env.serving.batcher import WINDOW
from waltz_env.types import Message, Observation

CHAT: list[Message] = [{"role": "user", "content": "How do I kill a process?"}]


def feedback(labels, advice: str = "Do better.") -> str:
    return critique(labels, advice).completion.text


def duet(conversation, feedback_agent=None, **options) -> closing[Duet]:
    pair = {CONVERSATION: conversation} | ({FEEDBACK: feedback_agent} if feedback_agent else {})
    return closing(Duet(pair, **options))


class Raises:
    """An agent that fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        raise self.error


class Hangs:
    """An agent in this process that does not come back until it is let go."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        assert self.over.wait(20)
        return [Completion(FINE)] * len(observations)


class NeverAnswers:
    """An agent behind a server that hangs; it is awaited."""

    async def aact(self, observations: Sequence[Observation]) -> list[Completion]:
        await asyncio.Event().wait()
        return []


class FailsLater:
    """A conversation agent with a draft and no revision."""

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        if any(observation["responses"] for observation in observations):
            raise RuntimeError("no revision")
        return [Completion("draft")] * len(observations)


@given(seed=st.integers(0, 10_000), rounds=st.integers(1, 3))
@settings(max_examples=25)
def test_it_plays_the_very_game_that_is_trained(seed: int, rounds: int) -> None:
    agents = {CONVERSATION: RandomSpeaker(seed), FEEDBACK: RandomSpeaker(seed + 1)}
    (game,) = play([chat_prompt(CHAT)], agents, rules=Rules(max_rounds=rounds))
    with duet(*agents.values(), rules=Rules(max_rounds=rounds)) as pair:
        reply = pair.respond(CHAT)
    assert reply.game == game
    if reply.failure is None:
        assert reply.text == game.final.text


def test_a_satisfactory_draft_is_the_answer() -> None:
    with duet(Speaker("draft", "revision"), Speaker(feedback(SAFE))) as pair:
        reply = pair.respond(CHAT)
    assert (reply.text, reply.draft, reply.triggered) == ("draft", "draft", False)
    assert reply.feedback is not None
    assert reply.feedback.labels == SAFE
    assert reply.latency.revision == 0


def test_a_flagged_draft_is_revised_by_the_advice() -> None:
    seen: list[Observation] = []

    class Listens(Speaker):
        def act(self, observations: Sequence[Observation]) -> list[Completion]:
            seen.extend(observations)
            return super().act(observations)

    with duet(Listens("draft", "revision"), Speaker(feedback(UNSAFE, "Leave that out."))) as pair:
        reply = pair.respond(CHAT)
    assert (reply.text, reply.draft, reply.triggered) == ("revision", "draft", True)
    assert seen[1]["feedback"] == ("Leave that out.",)
    assert seen[1]["responses"] == ("draft",)
    spent = reply.latency
    assert min(spent.draft, spent.feedback, spent.revision) > 0
    assert spent.draft + spent.feedback + spent.revision <= spent.total


def test_always_on_applies_the_advice_that_flags_nothing() -> None:
    with duet(Speaker("draft", "revision"), Speaker(feedback(SAFE, "Fine.")), mode="always-on") as pair:
        reply = pair.respond(CHAT)
    assert (reply.text, reply.triggered) == ("revision", False)


def test_off_asks_no_feedback() -> None:
    with duet(Speaker("draft"), Raises(RuntimeError()), mode="off") as pair:
        assert pair.respond(CHAT).text == "draft"
    with duet(Speaker("draft"), mode="off") as pair:
        reply = pair.respond(CHAT)
    assert (reply.text, reply.feedback, reply.triggered, reply.failure) == ("draft", None, False, None)


FAILURES: list[tuple[object, str]] = [
    (Raises(RuntimeError("SECRET")), "error"),
    (Raises(AgentError("gone", kind="unavailable")), "unavailable"),
    (Raises(AgentError("slow", kind="timeout")), "timeout"),
    (Speaker("It is all fine, I think."), "malformed"),
    (Speaker('{"unsafe": false}'), "malformed"),
    (Speaker(""), "malformed"),
    (Hangs(), "timeout"),
    (NeverAnswers(), "timeout"),
]


@pytest.mark.parametrize("mode", ["adaptive", "always-on"])
@pytest.mark.parametrize("policy", ["fail_open", "fail_closed"])
@pytest.mark.parametrize(("agent", "kind"), FAILURES)
def test_a_feedback_agent_that_fails_costs_what_the_policy_says(agent, kind: str, policy: str, mode: str) -> None:
    options: dict[str, Any] = {"on_failure": policy, "mode": mode, "refusal": "No."}
    if isinstance(agent, Hangs | NeverAnswers):
        options["feedback_timeout"] = 0.1
    if isinstance(agent, Hangs):
        agent.over.clear()
    with duet(Speaker("draft"), agent, **options) as pair:
        reply = pair.respond(CHAT)
        if isinstance(agent, Hangs):
            agent.over.set()
    assert reply.text == ("draft" if policy == "fail_open" else "No.")
    assert reply.refused == (policy == "fail_closed")
    assert reply.failure is not None
    assert (reply.failure.agent, reply.failure.kind) == (FEEDBACK, kind)
    assert "SECRET" not in reply.failure.reason
    assert pair.failures == {(FEEDBACK, kind): 1}


@pytest.mark.parametrize(
    ("labels", "policy", "text"),
    [
        (UNSAFE, "fail_open", "No."),
        (BOTH, "fail_open", "No."),
        (REFUSING, "fail_open", "draft"),
        (UNSAFE, "fail_closed", "No."),
        (REFUSING, "fail_closed", "No."),
    ],
)
def test_a_draft_called_unsafe_is_never_the_answer_when_its_revision_fails(labels, policy: str, text: str) -> None:
    with duet(FailsLater(), Speaker(feedback(labels)), on_failure=policy, refusal="No.") as pair:
        reply = pair.respond(CHAT)
    assert (reply.text, reply.draft, reply.triggered) == (text, "draft", True)
    assert reply.failure == Failure(CONVERSATION, "error", "The agent raised RuntimeError.")
    assert pair.failures == {(CONVERSATION, "error"): 1}


def test_without_a_draft_there_is_no_reply() -> None:
    with duet(Raises(AgentError("gone", kind="unavailable")), Speaker(feedback(SAFE))) as pair:
        with pytest.raises(AgentError, match="no draft") as error:
            pair.respond(CHAT)
        assert pair.failures == {(CONVERSATION, "unavailable"): 1}
    assert error.value.kind == "unavailable"


def test_a_batch_carries_the_replies_that_there_are() -> None:
    class FailsOnWhy:
        def act(self, observations: Sequence[Observation]) -> list[Completion]:
            if any(observation["prompt"] == "Why?" for observation in observations):
                raise RuntimeError
            return [Completion(observation["prompt"]) for observation in observations]

    chats = [[Message(role="user", content=text)] for text in ("a", "Why?", "b")]
    with duet(FailsOnWhy(), mode="off") as pair:
        with pytest.raises(AgentError, match="1 of 3 chats") as error:
            pair.respond_batch(chats)
        assert [reply and reply.text for reply in error.value.partial] == ["a", None, "b"]
        assert [reply.text for reply in pair.respond_batch([chats[2], chats[0]])] == ["b", "a"]


def test_drafts_and_revisions_have_a_deadline_too() -> None:
    with duet(NeverAnswers(), Speaker(feedback(SAFE)), timeout=0.1) as pair, pytest.raises(AgentError) as error:
        pair.respond(CHAT)
    assert error.value.kind == "timeout"

    class DraftsThenHangs(NeverAnswers):
        async def aact(self, observations: Sequence[Observation]) -> list[Completion]:
            return await super().aact(observations) if observations[0]["responses"] else [Completion("draft")]

    for policy, text in (("fail_open", "draft"), ("fail_closed", "No.")):
        options = {"timeout": 0.1, "on_failure": policy, "refusal": "No."}
        with duet(DraftsThenHangs(), Speaker(feedback(REFUSING)), **options) as pair:
            reply = pair.respond(CHAT)
        assert (reply.text, reply.failure and reply.failure.kind) == (text, "timeout")


# Chats


def test_a_chat_is_its_last_user_turn_with_what_came_before() -> None:
    turns: list[Message] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    prompt = chat_prompt(turns)
    assert prompt.text == "c"
    assert list(prompt.history) == turns[:2]


def test_system_messages_open_the_history_and_join_the_agents_own() -> None:
    chat: list[Message] = [
        {"role": "system", "content": "Rhyme."},
        {"role": "user", "content": "a"},
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    prompt = chat_prompt(chat)
    assert prompt.history[0] == {"role": "system", "content": "Rhyme.\n\nBe brief."}
    messages = conversation_messages(Game(prompt).observe(CONVERSATION))
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"] == f"{CONVERSATION_SYSTEM}\n\nRhyme.\n\nBe brief."


def test_a_system_message_may_come_last() -> None:
    prompt = chat_prompt([*CHAT, {"role": "system", "content": "Be brief."}])
    assert prompt.text == CHAT[0]["content"]
    assert list(prompt.history) == [{"role": "system", "content": "Be brief."}]


@pytest.mark.parametrize(
    "chat",
    [
        [],
        [{"role": "system", "content": "a"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        [{"role": "assistant", "content": "a"}, {"role": "system", "content": "b"}],
        [{"role": "usr", "content": "a"}],
    ],
)
def test_what_is_no_question_is_refused(chat: list[Message]) -> None:
    with pytest.raises(UsageError):
        chat_prompt(chat)
    with duet(Speaker("draft"), mode="off") as pair, pytest.raises(UsageError):
        pair.respond(chat)


@pytest.mark.parametrize(
    ("agents", "options"),
    [
        ({CONVERSATION: Speaker("a")}, {}),
        ({FEEDBACK: Speaker("a")}, {"mode": "off"}),
        ({CONVERSATION: Speaker("a"), "judge": Speaker("b")}, {"mode": "off"}),
        ({CONVERSATION: Speaker("a"), FEEDBACK: Speaker("a")}, {"mode": "on"}),
        ({CONVERSATION: Speaker("a"), FEEDBACK: Speaker("a")}, {"on_failure": "open"}),
        ({CONVERSATION: Speaker("a"), FEEDBACK: Speaker("a")}, {"timeout": 0}),
        ({CONVERSATION: Speaker("a"), FEEDBACK: Speaker("a")}, {"feedback_timeout": -1.0}),
        ({CONVERSATION: Speaker("a"), FEEDBACK: Speaker("a")}, {"queue_timeout": float("nan")}),
        ({CONVERSATION: Speaker("a"), FEEDBACK: Speaker("a")}, {"max_batch": 0}),
    ],
)
def test_settings_that_cannot_work_are_refused(agents, options: dict) -> None:
    with pytest.raises(UsageError):
        Duet(agents, **options)


# Batches


class Gate:
    """An agent whose first call waits until it is told to go on; it notes what it was asked."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        self.batches.append([observation["prompt"] for observation in observations])
        self.begun.set()
        assert self.open.wait(20)
        return [Completion(observation["prompt"]) for observation in observations]


def observe(text: str) -> Observation:
    return Game(chat_prompt([{"role": "user", "content": text}])).observe(CONVERSATION)


def ask_while_the_first_runs(batcher: Batcher, gate: Gate, texts: Sequence[str], then: Callable[[list], None]) -> list:
    """Asks for "first", and for ``texts`` once that is under way; the outcomes of ``texts``."""

    async def ask() -> list:
        first = asyncio.create_task(batcher.ask(CONVERSATION, observe("first")))
        await asyncio.to_thread(gate.begun.wait, 20)
        rest = [asyncio.create_task(batcher.ask(CONVERSATION, observe(text))) for text in texts]
        await asyncio.sleep(0)
        then(rest)
        for _ in range(5):  # rounds of the loop that a cancellation needs to get through
            await asyncio.sleep(0)
        gate.open.set()
        await first
        return await asyncio.gather(*rest, return_exceptions=True)

    with closing(batcher):
        return asyncio.run(ask())


def test_requests_that_come_while_a_batch_runs_make_the_next_one() -> None:
    gate = Gate()
    texts = [str(number) for number in range(5)]
    outcomes = ask_while_the_first_runs(Batcher({CONVERSATION: gate}, max_batch=3), gate, texts, lambda _: None)
    assert [outcome.text for outcome in outcomes] == texts
    assert gate.batches == [["first"], ["0", "1", "2"], ["3", "4"]]


def test_the_next_turn_of_a_game_that_ran_alone_waits_for_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("waltz_env.serving.batcher.time.sleep", waits.append)
    talker, reviewer = Speaker("draft"), Speaker(feedback(SAFE))
    with closing(Duet({CONVERSATION: talker, FEEDBACK: reviewer})) as pair:
        pair.respond(CHAT)
        assert waits == [WINDOW]
        pair.respond(CHAT)
        assert waits == [WINDOW] * 2


def test_a_request_that_is_no_longer_wanted_is_not_run() -> None:
    gate = Gate()
    outcomes = ask_while_the_first_runs(Batcher({CONVERSATION: gate}), gate, ["0", "1"], lambda rest: rest[0].cancel())
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert outcomes[1].text == "1"
    assert gate.batches == [["first"], ["1"]]


def test_one_bad_request_does_not_fail_its_neighbours() -> None:
    class Picky(Gate):
        def act(self, observations: Sequence[Observation]) -> list[Completion]:
            completions = super().act(observations)
            if any(observation["prompt"] == "bad" for observation in observations):
                raise ValueError
            return completions

    gate = Picky()
    outcomes = ask_while_the_first_runs(Batcher({CONVERSATION: gate}), gate, ["0", "bad", "1"], lambda _: None)
    assert [getattr(outcome, "text", type(outcome)) for outcome in outcomes] == ["0", ValueError, "1"]
    assert gate.batches == [["first"], ["0", "bad", "1"], ["0"], ["bad"], ["1"]]


def test_an_error_that_tells_which_requests_failed_fails_only_those_without_a_retry() -> None:
    class Partial(Gate):
        def act(self, observations: Sequence[Observation]) -> list[Completion]:
            completions = super().act(observations)
            if len(observations) == 1:
                return completions
            partial = [None if completion.text == "bad" else completion for completion in completions]
            raise AgentError("One is bad.", kind="too_long", partial=partial)

    gate = Partial()
    outcomes = ask_while_the_first_runs(Batcher({CONVERSATION: gate}), gate, ["0", "bad", "1"], lambda _: None)
    assert [getattr(outcome, "text", type(outcome)) for outcome in outcomes] == ["0", AgentError, "1"]
    assert gate.batches == [["first"], ["0", "bad", "1"]]


def test_prompts_that_cannot_be_read_leave_the_batch_and_the_rest_runs_together() -> None:
    class CannotReadBad(Gate):
        def act(self, observations: Sequence[Observation]) -> list[Completion]:
            completions = super().act(observations)
            rows = [row for row, completion in enumerate(completions) if completion.text == "bad"]
            if rows:
                raise UnreadablePromptError("Too long.", kind="too_long", rows=rows)
            return completions

    gate = CannotReadBad()
    outcomes = ask_while_the_first_runs(Batcher({CONVERSATION: gate}), gate, ["0", "bad", "1", "2"], lambda _: None)
    errors = [getattr(outcome, "text", type(outcome)) for outcome in outcomes]
    assert errors == ["0", UnreadablePromptError, "1", "2"]
    assert gate.batches == [["first"], ["0", "bad", "1", "2"], ["0", "1", "2"]]


def test_older_requests_run_first() -> None:
    gate = Gate()

    async def ask() -> list[str]:
        batcher = Batcher({CONVERSATION: gate}, max_batch=2)
        first = asyncio.create_task(batcher.ask(CONVERSATION, observe("first"), since=0.0))
        await asyncio.to_thread(gate.begun.wait, 20)
        ages = {"young": 9.0, "old": 1.0, "middle": 5.0, "oldest": 0.5}
        rest = [asyncio.create_task(batcher.ask(CONVERSATION, observe(t), since=age)) for t, age in ages.items()]
        await asyncio.sleep(0)
        gate.open.set()
        answers = await asyncio.gather(first, *rest)
        batcher.close()
        return [answer.text for answer in answers]

    assert asyncio.run(ask()) == ["first", "young", "old", "middle", "oldest"]
    assert gate.batches == [["first"], ["oldest", "old"], ["middle", "young"]]


def test_an_agent_that_gives_too_few_completions_fails_and_loses_nobody() -> None:
    class Short:
        def act(self, observations: Sequence[Observation]) -> list[Completion]:
            return [Completion("a")] * min(len(observations), 1)

    with duet(Short(), mode="off") as pair:
        assert [reply.text for reply in pair.respond_batch([CHAT] * 4)] == ["a"] * 4  # again, one by one


def test_agents_in_one_process_never_run_at_once() -> None:
    lock = threading.Lock()
    overlaps: list[int] = []

    class Exclusive(Speaker):
        def act(self, observations: Sequence[Observation]) -> list[Completion]:
            if not lock.acquire(blocking=False):
                overlaps.append(1)
                return super().act(observations)
            sum(range(100_000))  # long enough for another thread to come in
            lock.release()
            return super().act(observations)

    talker, reviewer = Exclusive("draft", "revision"), Exclusive(feedback(UNSAFE))
    with duet(talker, reviewer, max_batch=4) as pair, ThreadPoolExecutor(16) as threads:
        replies = list(threads.map(pair.respond, [CHAT] * 48))
    assert [reply.text for reply in replies] == ["revision"] * 48
    assert overlaps == []
    assert sum(talker.batches) == 96
    assert sum(reviewer.batches) == 48
    assert max(talker.batches) == 4  # threads that call at once share batches


def test_closing_cancels_what_waits() -> None:
    gate = Gate()
    batcher = Batcher({CONVERSATION: gate}, max_batch=1)

    async def close_under_way() -> list:
        tasks = [asyncio.create_task(batcher.ask(CONVERSATION, observe("x"))) for _ in range(3)]
        await asyncio.to_thread(gate.begun.wait, 20)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.wait(tasks[1:])
        gate.open.set()
        await closing
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, *others = asyncio.run(close_under_way())
    assert first == Completion("x")
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in others)


def test_it_can_block_within_a_running_loop() -> None:
    async def notebook_cell(pair: Duet) -> list[str]:
        return [pair.respond(CHAT).text, (await pair.arespond(CHAT)).text]

    with duet(Speaker("draft"), Speaker(feedback(SAFE))) as pair:
        assert asyncio.run(notebook_cell(pair)) == ["draft", "draft"]


# A real model


def test_a_real_pair_answers_as_it_plays() -> None:
    def pair_of_agents():
        return lora_pair(tiny_model(), tiny_tokenizer(), seed=3, max_new_tokens=8)

    chat: list[Message] = [{"role": "system", "content": "Rhyme."}, *CHAT]
    (game,) = play([chat_prompt(chat)], pair_of_agents())
    with closing(Duet(pair_of_agents(), on_failure="fail_open")) as pair:
        reply = pair.respond(chat)
        (served,), (played,) = reply.game.critiques, game.critiques
        # In production a critique is partly guessed and checked, which rounds its log-probabilities differently.
        assert served.completion.logprobs == pytest.approx(played.completion.logprobs, abs=1e-4)
        assert replace(served, completion=replace(served.completion, logprobs=played.completion.logprobs)) == played
        assert replace(reply.game, critiques=game.critiques) == game
        assert reply.failure is not None
        assert reply.failure.kind == "malformed"  # random weights write no JSON
        replies = pair.respond_batch([CHAT] * 6)
    assert len({reply.text for reply in replies}) > 1  # sampled, each for itself
    assert all(reply.game.final.completion.token_ids for reply in replies)
