"""An unreviewed answer never looks like a reviewed one: budgets of time, queues, overload. In virtual time."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import uvloop

from tests import virtual_time
from tests.games import SAFE, UNSAFE, Speaker, critique
from waltz_env import CONVERSATION, FEEDBACK, Completion
from waltz_env.errors import AgentError
from waltz_env.rules import Rules
from waltz_env.sampling_options import SamplingOptions
from waltz_env.serving import Duet, Reply
from waltz_env.serving.turn import Turn
from waltz_env.types import Message, Observation, Trajectory

CHAT: list[Message] = [{"role": "user", "content": "How do I kill a process?"}]
PASSES, FLAGS = critique(SAFE, "Keep it.").completion.text, critique(UNSAFE, "Do better.").completion.text


class Server:
    """An agent on a server that takes its time, with a queue in front."""

    def __init__(self, *texts: str, seconds: float = 0.0, slots: int = 1000) -> None:
        self.texts, self.seconds, self.slots = texts, seconds, asyncio.Semaphore(slots)

    async def aact(self, observations: Sequence[Observation]) -> list[Completion]:
        return await self.aact_with(observations, [], started=lambda: None)

    async def aact_with(
        self, observations: Sequence[Observation], options: Sequence[SamplingOptions], *, started: Callable[[], None]
    ) -> list[Completion]:
        async with self.slots:
            started()
            await asyncio.sleep(self.seconds)
        return [Completion(self.texts[min(len(o["responses"]), len(self.texts) - 1)]) for o in observations]


class Refuses:
    """An agent on a server that has an error for every request."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    async def aact(self, observations: Sequence[Observation]) -> list[Completion]:
        raise AgentError("The server says no.", kind=self.kind)


def ask(count: int, conversation: Any, feedback: Any, **options: Any) -> list[Reply | AgentError]:
    """The outcomes of ``count`` requests that come at once."""

    async def all_at_once() -> list[Any]:
        duet = Duet({CONVERSATION: conversation(), FEEDBACK: feedback()}, **options)
        return await asyncio.gather(*(duet.arespond(CHAT) for _ in range(count)), return_exceptions=True)

    outcomes = virtual_time.run(all_at_once())
    assert all(isinstance(outcome, Reply | AgentError) for outcome in outcomes)
    return outcomes


def one(conversation: Any, feedback: Any, **options: Any) -> Reply:
    (reply,) = ask(1, lambda: conversation, lambda: feedback, **options)
    assert isinstance(reply, Reply)
    return reply


def told(outcomes: Sequence[Reply | AgentError]) -> Counter[str]:
    """How often each outcome came: reviewed, unreviewed, refused, or the kind of an error."""
    names = Counter[str]()
    for outcome in outcomes:
        if isinstance(outcome, AgentError):
            names[outcome.kind] += 1
        else:
            names["refused" if outcome.refused else "reviewed" if outcome.reviewed else "unreviewed"] += 1
    return names


# Time


def test_a_slow_draft_takes_no_time_from_its_review() -> None:
    outcomes = ask(1, lambda: Server("draft", seconds=59), lambda: Server(PASSES, seconds=59))
    assert told(outcomes) == {"reviewed": 1}


def test_waiting_for_a_turn_takes_no_time_from_the_review() -> None:
    outcomes = ask(
        5, lambda: Server("draft"), lambda: Server(PASSES, seconds=10, slots=1), feedback_timeout=11, queue_timeout=41
    )
    assert told(outcomes) == {"reviewed": 5}  # the last one waits 40 seconds


@pytest.mark.parametrize("policy", ["fail_closed", "fail_open"])
def test_a_request_that_waits_too_long_is_shed_by_either_policy(policy: str) -> None:
    outcomes = ask(
        5,
        lambda: Server("draft"),
        lambda: Server(PASSES, seconds=10, slots=1),
        queue_timeout=25,
        on_failure=policy,
    )
    assert told(outcomes) == {"reviewed": 3, "overloaded": 2}


def test_waiting_is_counted_over_all_turns_of_a_request() -> None:
    outcomes = ask(
        3, lambda: Server("draft", seconds=10, slots=1), lambda: Server(PASSES, seconds=20, slots=1), queue_timeout=35
    )
    # Drafts end after 10, 20, 30 s and reviews begin after 10, 30, 50: the third request waits 20 s, then 20 s.
    assert told(outcomes) == {"reviewed": 2, "overloaded": 1}


@pytest.mark.parametrize(
    ("conversation", "feedback", "seconds"),
    [(10, 100, {"draft": 10, "feedback": 60}), (50, 20, {"draft": 50, "feedback": 20, "revision": 50})],
)
def test_each_phase_has_its_own_budget_and_latency(conversation: int, feedback: int, seconds: dict) -> None:
    reply = one(Server("draft", "revision", seconds=conversation), Server(FLAGS, seconds=feedback))
    assert reply.refused == ("revision" not in seconds)
    for phase in ("draft", "feedback", "revision"):
        assert getattr(reply.latency, phase) == pytest.approx(seconds.get(phase, 0))
    assert reply.latency.queue == pytest.approx(0)


def test_a_draft_that_takes_too_long_is_an_error() -> None:
    assert told(ask(1, lambda: Server("draft", seconds=61), lambda: Server(PASSES))) == {"timeout": 1}


def test_no_request_takes_longer_than_the_longest() -> None:
    async def timed() -> float:
        pair = {CONVERSATION: Server("draft", seconds=59.5), FEEDBACK: Server(FLAGS, seconds=59.5)}
        duet = Duet(pair, rules=Rules(max_rounds=2))
        assert duet.longest == 60 + 3 * 60 + 2 * 60
        await duet.arespond(CHAT)
        spent = asyncio.get_running_loop().time()
        assert spent < duet.longest
        return spent

    assert virtual_time.run(timed()) == pytest.approx(5 * 59.5)


def test_a_turn_spends_one_budget_at_a_time() -> None:
    async def spend() -> tuple[str, float, dict]:
        turn = Turn(waiting=10, running=5)
        await asyncio.sleep(4)
        turn.starts()
        await asyncio.sleep(3)
        turn.waits()
        await asyncio.sleep(5)
        turn.starts()
        state = await turn.expired
        turn.close()
        return state, asyncio.get_running_loop().time(), dict(turn.seconds)

    state, now, seconds = virtual_time.run(spend())
    assert state == "running"
    assert now == pytest.approx(14)
    assert seconds == pytest.approx({"waiting": 9, "running": 5})


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_turn_tells_waiting_from_running_in_any_event_loop(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def spend() -> dict:
        turn = Turn(waiting=60, running=60)

        def wait_in_a_thread() -> None:
            threading.Event().wait(0.05)  # the loop idles meanwhile, so the time of its last iteration is an old one
            turn.starts()

        await asyncio.to_thread(wait_in_a_thread)
        turn.close()
        return turn.seconds

    with asyncio.Runner(loop_factory=new_loop) as runner:
        seconds = runner.run(spend())
    assert seconds["waiting"] >= 0.05
    assert seconds["running"] > 0


# Overload


def test_under_load_and_a_slow_reviewer_no_answer_is_unreviewed_by_default() -> None:
    outcomes = ask(200, lambda: Server("draft", seconds=1, slots=32), lambda: Server(PASSES, seconds=5, slots=8))
    assert told(outcomes).keys() == {"reviewed", "overloaded"}
    assert sum(told(outcomes).values()) == 200
    assert told(outcomes)["reviewed"] >= 80  # 8 of them every 5 seconds


@pytest.mark.parametrize("policy", ["fail_closed", "fail_open"])
@pytest.mark.parametrize("kind", ["overloaded", "too_long"])
def test_what_a_client_can_cause_never_turns_the_review_off(kind: str, policy: str) -> None:
    outcomes = ask(3, lambda: Server("draft"), lambda: Refuses(kind), on_failure=policy)
    assert told(outcomes) == {kind: 3}


@pytest.mark.parametrize("kind", ["timeout", "unavailable", "error"])
def test_a_reviewer_that_fails_costs_the_answer_by_default(kind: str) -> None:
    assert told(ask(3, lambda: Server("draft"), lambda: Refuses(kind))) == {"refused": 3}


# What a reply tells


class NeverAsks(Rules):
    """Rules without feedback."""

    __slots__ = ()

    def asks_feedback(self, game: Trajectory) -> bool:
        return False


@pytest.mark.parametrize(
    ("feedback", "options", "reviewed"),
    [
        (Server(PASSES), {}, True),
        (Server(FLAGS), {}, True),
        (Server("I like it."), {}, False),
        (Server("I like it."), {"on_failure": "fail_open"}, False),
        (Refuses("error"), {"on_failure": "fail_open"}, False),
        (Server(PASSES, seconds=70), {"on_failure": "fail_open"}, False),
        (Server(PASSES), {"mode": "off"}, False),
        (Server(PASSES), {"rules": NeverAsks()}, False),
        (Server(PASSES), {"mode": "always-on"}, True),
        (Server(FLAGS), {"rules": Rules(max_rounds=2)}, True),
    ],
)
def test_a_reply_tells_whether_it_was_reviewed(feedback: Any, options: dict, reviewed: bool) -> None:
    reply = one(Server("draft", "revision"), feedback, **options)
    assert reply.reviewed == reviewed
    assert reply.refused == (options == {} and not reviewed)


class ReviewsOnce(Server):
    """A feedback agent that fails on the second response."""

    async def aact_with(self, observations: Any, options: Any, *, started: Any) -> list[Completion]:
        if len(observations[0]["responses"]) > 1:
            raise AgentError("No second review.")
        return await super().aact_with(observations, options, started=started)


@pytest.mark.parametrize("feedback", [Server("", FLAGS, "I like it."), ReviewsOnce(FLAGS)])
def test_a_revision_whose_own_review_fails_is_unreviewed(feedback: Any) -> None:
    reply = one(Server("draft", "revision"), feedback, rules=Rules(max_rounds=2), on_failure="fail_open")
    assert (reply.text, reply.reviewed) == ("revision", False)


def test_a_reviewed_draft_whose_revision_fails_stays_reviewed() -> None:
    class DraftsOnce(Server):
        async def aact_with(self, observations: Any, options: Any, *, started: Any) -> list[Completion]:
            if observations[0]["responses"]:
                raise AgentError("No revision.")
            return await super().aact_with(observations, options, started=started)

    flags = critique(SAFE, "Say more.").completion.text
    reply = one(DraftsOnce("draft"), Server(flags), mode="always-on", on_failure="fail_open")
    assert (reply.text, reply.reviewed, reply.failure is not None) == ("draft", True, True)


# Options


@pytest.mark.parametrize(
    ("options", "draft", "finish"),
    [
        (SamplingOptions(stop=("STOP",)), "One two. ", "stop"),
        (SamplingOptions(stop=("absent", "two")), "One ", "stop"),
        (SamplingOptions(max_tokens=2), "One two", "length"),
        (SamplingOptions(max_tokens=100), "One two. STOP three.", "stop"),
        (SamplingOptions(temperature=0.0, top_p=0.5, seed=3), "One two. STOP three.", "stop"),
    ],
)
def test_the_reviewer_sees_the_draft_as_it_ends(options: SamplingOptions, draft: str, finish: str) -> None:
    pair = {CONVERSATION: Speaker("One two. STOP three."), FEEDBACK: Speaker(PASSES)}
    duet = Duet(pair)
    reply = duet.respond(CHAT, options=options)
    duet.close()
    assert (reply.text, reply.game.final.completion.finish) == (draft, finish)
    assert reply.reviewed
