"""The chat server under load, with servers behind it that misbehave: every request gets an answer or a proper error.

Not part of the default suite: ``make test-serving``. All traffic stays on loopback.
"""

from __future__ import annotations

import asyncio
import gc
import random
import re
import threading
from collections import Counter
from collections.abc import Sequence

import httpx
import pytest

from tests.chat_server import serving
from tests.games import SAFE, UNSAFE, Speaker, critique
from tests.upstream import Answer, Script, Upstream, breaks_off, drops, fails, hangs, says, sends
from tests.waiting import Slow
from waltz_env import CONVERSATION, FEEDBACK
from waltz_env.agents.openai_agent import OpenAIAgent
from waltz_env.agents.templates import TEMPLATES
from waltz_env.serving import Duet, Limits, OnFailure

PROPER = {200, 429, 502, 503, 504}
PASSES = critique(SAFE, "Keep it.").completion.text
TROUBLE: tuple[Answer, ...] = (hangs, drops, breaks_off, fails(500), fails(503), fails(429), sends("garbage"))


def flood(url: str, count: int, *, concurrent: int) -> list[httpx.Response]:
    """The answers to ``count`` chats, of which ``concurrent`` are under way at once; every third is a stream."""
    waiting = list(range(count))
    answers: list[httpx.Response] = []

    async def client() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60, verify=False) as connection:
            while waiting:
                number = waiting.pop()
                messages = [{"role": "user", "content": f"Question {number}?"}]
                body = {"model": "waltz", "messages": messages, "stream": number % 3 == 0}
                answers.append(await connection.post("/v1/chat/completions", json=body))

    async def clients() -> None:
        await asyncio.gather(*(client() for _ in range(concurrent)))

    asyncio.run(clients())
    return answers


def check(answers: Sequence[httpx.Response]) -> Counter[int]:
    """Asserts that each is a whole answer or an error in OpenAI's form; how often each status came."""
    for answer in answers:
        assert answer.status_code in PROPER
        if answer.status_code != 200:
            assert answer.json()["error"]["message"]
        elif answer.headers["content-type"].startswith("text/event-stream"):
            assert answer.text.endswith("data: [DONE]\n\n")
        else:
            assert answer.json()["choices"][0]["message"]["content"]
    return Counter(answer.status_code for answer in answers)


def troubled(good: str, seed: int, share: float = 0.3) -> Script:
    """A script in which each request meets trouble with probability ``share``."""
    rng = random.Random(seed)

    def script(body: dict, number: int) -> Answer:
        return rng.choice(TROUBLE) if rng.random() < share else says(good, after=rng.random() * 0.05)

    return script


def samples(url: str, name: str) -> float:
    page = httpx.get(f"{url}/metrics").text
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", page, re.MULTILINE))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the servers that are cut off
def test_no_request_is_lost_whatever_the_servers_behind_do() -> None:
    conversation = Upstream(troubled("an answer", seed=1))
    feedback = Upstream(troubled(critique(UNSAFE).completion.text, seed=2))
    agents = {
        role: OpenAIAgent("m", TEMPLATES[role], server=server.client(timeout=1, retries=1))
        for role, server in ((CONVERSATION, conversation), (FEEDBACK, feedback))
    }
    duet = Duet(agents, timeout=10, feedback_timeout=1.5, on_failure="fail_open")
    over = threading.Event()

    def restart_now_and_then() -> None:
        while not over.wait(3.0):
            for server in (feedback, conversation):
                server.stop()
                over.wait(0.2)  # the outage
                server.start()

    restarting = threading.Thread(target=restart_now_and_then)
    with serving(duet) as url:
        restarting.start()
        answers = flood(url, 600, concurrent=150)
        over.set()
        restarting.join()
        assert samples(url, "waltz_requests_in_flight") == 0
        assert samples(url, "waltz_phase_seconds_count") >= check(answers)[200]
    statuses = check(answers)
    assert len(answers) == sum(statuses.values()) == 600
    assert statuses[200] > 100
    assert {status for status in statuses if status != 200} >= {502, 503}
    assert {kind for _, kind in duet.failures} >= {"error", "unavailable", "timeout"}
    for agent in agents.values():
        agent.close()
    conversation.stop()
    feedback.stop()
    gc.collect()


@pytest.mark.parametrize(
    ("settings", "statuses"),
    [
        ({}, {200}),  # the defaults: everything is reviewed, after a while
        ({"queue_timeout": 1.0}, {200, 503}),  # too slow for that: the rest is shed
        ({"queue_timeout": 1.0, "on_failure": "fail_open"}, {200, 503}),
    ],
)
def test_under_load_and_a_slow_reviewer_no_answer_is_unreviewed(settings: dict, statuses: set[int]) -> None:
    duet = Duet({CONVERSATION: Speaker("draft"), FEEDBACK: Slow(0.3, PASSES)}, max_batch=8, **settings)
    with serving(duet) as url:
        answers = flood(url, 200, concurrent=200)
        assert check(answers).keys() == statuses
        assert {answer.headers.get("x-waltz-review") for answer in answers if answer.status_code == 200} == {"reviewed"}
        assert samples(url, "waltz_answers_total") == check(answers)[200]
    assert len(answers) == 200
    assert duet.failures.keys() <= {(FEEDBACK, "overloaded"), (CONVERSATION, "overloaded")}


@pytest.mark.parametrize("policy", ["fail_closed", "fail_open"])
def test_under_load_a_reviewer_that_is_too_slow_leaves_nothing_unmarked(policy: OnFailure) -> None:
    duet = Duet({CONVERSATION: Speaker("draft"), FEEDBACK: Slow(0.6, PASSES)}, feedback_timeout=0.3, on_failure=policy)
    with serving(duet) as url:
        answers = flood(url, 200, concurrent=200)
    marks = Counter(answer.headers.get("x-waltz-review") for answer in answers if answer.status_code == 200)
    assert marks == {"refused" if policy == "fail_closed" else "unreviewed": check(answers)[200]}


def test_more_than_it_can_take_is_turned_away_at_once_and_the_rest_answered() -> None:
    with serving(Duet({CONVERSATION: Slow(0.05)}, mode="off"), limits=Limits(concurrent=64)) as url:
        statuses = check(flood(url, 600, concurrent=600))
        assert check(flood(url, 64, concurrent=64)) == {200: 64}
    assert statuses.keys() == {200, 429}
    assert statuses[200] >= 64


def test_memory_stays_flat() -> None:
    duet = Duet({CONVERSATION: Speaker("draft", "revision"), FEEDBACK: Speaker(critique(SAFE).completion.text)})
    counts = []
    with serving(duet) as url:
        for _ in range(4):
            assert check(flood(url, 600, concurrent=100)) == {200: 600}
            gc.collect()
            counts.append(len(gc.get_objects()))
    assert counts[3] - counts[1] < 600  # of what 1,200 more requests made, less than half an object each is left
