"""Generation that nobody waits for any more, and a server that is told to stop while an agent works."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from contextlib import closing
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.endless import Endless
from tests.games import Speaker
from tests.tiny import tiny_model, tiny_tokenizer
from tests.waiting import wait_until
from waltz_env.agents import TransformersAgent, full_policy
from waltz_env.agents.templates import conversation_messages
from waltz_env.errors import AgentError, UsageError
from waltz_env.game import Game
from waltz_env.sampling_options import SamplingOptions
from waltz_env.serving import Batcher, Duet, chat_prompt
from waltz_env.stop_signal import stop_signal
from waltz_env.types import CONVERSATION, Message

CHAT: list[Message] = [{"role": "user", "content": "How do I kill a process?"}]
ROOT = Path(__file__).parents[1]
OBSERVATION = Game(chat_prompt(CHAT)).observe(CONVERSATION)


@pytest.mark.parametrize("tokens", [0, 1, 7])
def test_a_model_stops_between_tokens_once_it_is_told_to(tokens: int) -> None:
    policy = full_policy(tiny_model(), tiny_tokenizer())
    agent = TransformersAgent(policy, conversation_messages, max_new_tokens=3000)
    asked = count()
    with pytest.raises(AgentError, match="nobody waits"):
        agent.act_with([OBSERVATION], [SamplingOptions(temperature=0)], should_stop=lambda: next(asked) == tokens)
    assert next(asked) == tokens + 1


def test_a_batch_stops_when_its_last_request_is_given_up_and_is_not_tried_again() -> None:
    agent = Endless()

    async def ask(batcher: Batcher) -> None:
        asked = [asyncio.create_task(batcher.ask(CONVERSATION, OBSERVATION)) for _ in range(3)]
        await asyncio.to_thread(wait_until, lambda: agent.calls == 1)
        for task in asked:
            assert agent.stopped == 0
            task.cancel()
            await asyncio.wait([task])

    with closing(Batcher({CONVERSATION: agent}, window=0.1)) as batcher:
        asyncio.run(ask(batcher))
        wait_until(lambda: agent.stopped == 1)
    assert agent.calls == 1


@pytest.mark.parametrize("requests", [1, 3])
def test_closing_stops_what_runs_and_fails_all_who_asked(requests: int) -> None:
    agent = Endless()

    async def ask(batcher: Batcher) -> list:
        asked = [asyncio.create_task(batcher.ask(CONVERSATION, OBSERVATION)) for _ in range(requests)]
        await asyncio.to_thread(wait_until, lambda: agent.calls == 1)
        await asyncio.to_thread(batcher.close)
        return await asyncio.gather(*asked, return_exceptions=True)

    outcomes = asyncio.run(ask(Batcher({CONVERSATION: agent}, window=0.1)))
    assert [type(outcome) for outcome in outcomes] == [AgentError] * requests
    assert agent.calls == 1


def test_a_closed_duet_says_so() -> None:
    duet = Duet({CONVERSATION: Speaker("draft")}, mode="off")
    assert duet.respond(CHAT).text == "draft"
    duet.close()
    with pytest.raises(AgentError, match="closed"):
        asyncio.run(duet.arespond(CHAT))
    with pytest.raises(UsageError, match="closed"):
        duet.respond(CHAT)


@pytest.mark.parametrize(
    ("kind", "signals"),
    [
        ("endless", [signal.SIGTERM]),
        ("hanging", [signal.SIGTERM]),
        ("hanging", [signal.SIGTERM, signal.SIGTERM]),
        ("hanging", [signal.SIGINT, signal.SIGINT]),
    ],
)
def test_a_server_that_is_told_to_stop_ends_though_an_agent_works(kind: str, signals: list[signal.Signals]) -> None:
    command = [sys.executable, "-m", "tests.endless", kind, "0" if len(signals) == 1 else "999"]
    answers: list[httpx.Response | None] = []
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            url = json.loads(process.stderr.readline())["url"]
            asking = threading.Thread(target=lambda: answers.append(ask(url)))
            asking.start()
            wait_until(lambda: "in_flight 1.0" in httpx.get(f"{url}/metrics").text)
            for number in signals:
                process.send_signal(number)
                wait_until(lambda: process.poll() is not None or refuses(url))
            process.wait(20)
            asking.join()
        finally:
            process.kill()
    assert process.returncode == -signals[-1]
    assert [answer and (answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
        (503, "stopping") if len(signals) == 1 else None
    ]


def ask(url: str) -> httpx.Response | None:
    try:
        return httpx.post(f"{url}/v1/chat/completions", json={"model": "waltz", "messages": CHAT}, timeout=60)
    except httpx.TransportError:
        return None


def refuses(url: str) -> bool:
    try:
        httpx.get(f"{url}/healthz")
    except httpx.TransportError:
        return True
    return False


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    found: list[object] = []

    def work() -> None:
        with stop_signal() as should_stop:
            found.extend([should_stop(), *map(signal.getsignal, (signal.SIGINT, signal.SIGTERM))])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False, *before]
