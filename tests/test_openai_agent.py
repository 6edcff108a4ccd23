"""The agent behind an OpenAI-compatible server: a real client against a real server on loopback."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from tests.games import PROCESS, PROMPTS, Speaker, WordJudge
from tests.upstream import (
    Upstream,
    always,
    breaks_off,
    completion,
    drops,
    fails,
    hangs,
    in_turn,
    once,
    says,
    sends,
)
from waltz_env import CONVERSATION, FEEDBACK, Completion, UsageError, judge_games, play
from waltz_env.agents.openai_agent import OpenAIAgent
from waltz_env.agents.templates import conversation_messages, feedback_messages
from waltz_env.algorithms.training.samples import samples
from waltz_env.errors import AgentError, UnreadablePromptError
from waltz_env.feedback import JSON_SCHEMA
from waltz_env.game import Game
from waltz_env.rewards import SETUP_A
from waltz_env.rules import Rules
from waltz_env.server_client import ServerClient
from waltz_env.serving import AsyncAgent
from waltz_env.testing import agent_test

CONNECTION = ("max_concurrent", "timeout", "deadline", "retries", "parameters")
OBSERVATIONS = [Game(prompt).observe(CONVERSATION) for prompt in PROMPTS]
IDS: dict[str, Any] = {
    "choice": {"token_ids": [5, 6], "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1.25}]}}
}


def agent(server: Upstream, **settings) -> closing[OpenAIAgent]:
    connection = {name: settings.pop(name) for name in CONNECTION if name in settings}
    template = settings.pop("template", conversation_messages)
    return closing(OpenAIAgent("m", template, server=server.client(**connection), **settings))


def echoes(body: dict, _: int):
    return says(body["messages"][-1]["content"].rpartition("\n\n")[2].upper())


def test_each_observation_gets_its_completion_in_order(upstream) -> None:
    with agent(upstream(echoes)) as asked:
        assert asked.act(OBSERVATIONS * 3) == [Completion(prompt.text.upper()) for prompt in PROMPTS] * 3
        assert asked.act([]) == []


def test_a_request_says_what_was_set(upstream) -> None:
    server = upstream(always(says("x")))
    with agent(server, temperature=0.5, max_tokens=7, seed=40) as asked:
        asked.act(OBSERVATIONS[:1])
        asked.act(OBSERVATIONS[:1])
    first, second = server.requests
    assert first == {
        "model": "m",
        "messages": conversation_messages(OBSERVATIONS[0]),
        "temperature": 0.5,
        "top_p": 1.0,
        "max_tokens": 7,
        "seed": 40,
    }
    assert second == first | {"seed": 41}


def test_text_that_no_encoding_can_carry_is_sent_all_the_same(upstream) -> None:
    server = upstream(always(says("x")))
    with agent(server, template=lambda o: [{"role": "user", "content": o["prompt"]}]) as asked:
        assert asked.act([{**OBSERVATIONS[0], "prompt": "\ud800 lone"}]) == [Completion("x")]
    assert server.requests[0]["messages"] == [{"role": "user", "content": "? lone"}]


def test_a_schema_is_asked_for(upstream) -> None:
    server = upstream(always(says("x")))
    with agent(server, template=feedback_messages, json_schema=JSON_SCHEMA) as asked:
        asked.act([{**OBSERVATIONS[0], "responses": ("c_0",)}])
    asked_for = server.requests[0]["response_format"]
    assert asked_for["type"] == "json_schema"
    assert asked_for["json_schema"]["schema"] == JSON_SCHEMA


def test_a_length_limit_is_marked(upstream) -> None:
    with agent(upstream(always(sends(completion("cut", finish="length"))))) as asked:
        assert asked.act(OBSERVATIONS[:1]) == [Completion("cut", "length")]


def test_an_answer_without_text_is_an_empty_completion(upstream) -> None:
    with agent(upstream(always(sends(completion(None))))) as asked:
        assert asked.act(OBSERVATIONS[:1]) == [Completion("")]


def test_no_more_requests_are_under_way_than_allowed(upstream) -> None:
    third = threading.Event()

    def waits_for_the_third(_: dict, number: int):
        if number == 2:
            third.set()
        return once(third, says("x"))

    server = upstream(waits_for_the_third)
    with agent(server, max_concurrent=3) as asked:
        asked.act(OBSERVATIONS * 4)
    assert server.most == 3


@pytest.mark.parametrize("trouble", [fails(503), fails(500), fails(429), fails(408), drops, breaks_off])
def test_what_may_pass_is_tried_again(trouble, upstream) -> None:
    server = upstream(in_turn(trouble, says("there")))
    with agent(server) as asked:
        assert asked.act(OBSERVATIONS[:1]) == [Completion("there")]
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("trouble", "kind", "requests"),
    [
        (fails(500), "error", 2),
        (fails(400), "error", 1),
        (fails(503), "overloaded", 2),
        (fails(429), "overloaded", 2),
        (drops, "unavailable", 2),
        (breaks_off, "unavailable", 2),
        (hangs, "timeout", 2),
        (sends("no JSON"), "error", 1),
        (sends("<html>", headers={"content-type": "text/html"}), "error", 1),
        (sends("[]"), "error", 1),
        (sends('{"choices": []}'), "error", 1),
        (sends('{"choices": [{"message": 7}]}'), "error", 1),
        (sends('{"choices": [{"message": {"content": ["x"]}}]}'), "error", 1),
        (sends(""), "error", 1),
    ],
)
def test_what_does_not_pass_is_an_error_of_its_kind(trouble, kind: str, requests: int, upstream) -> None:
    server = upstream(always(trouble))
    with agent(server, retries=1, timeout=0.2) as asked, pytest.raises(AgentError) as error:
        asked.act(OBSERVATIONS[:1])
    assert error.value.kind == kind
    assert len(server.requests) == requests


def test_a_server_that_is_not_there_is_unavailable(upstream) -> None:
    server = upstream(always(says("x")))
    server.stop()
    with agent(server, retries=1) as asked:
        with pytest.raises(AgentError, match="could not be reached") as error:
            asked.act(OBSERVATIONS[:1])
        assert error.value.kind == "unavailable"
        server.start()
        assert asked.act(OBSERVATIONS[:1]) == [Completion("x")]


def test_a_partial_failure_carries_the_completions_that_there_are(upstream) -> None:
    def script(body: dict, _: int):
        return fails(400) if body["messages"][-1]["content"] == PROCESS.text else says("fine")

    with agent(upstream(script)) as asked, pytest.raises(AgentError, match="1 of 3 observations") as error:
        asked.act(OBSERVATIONS)
    assert error.value.partial == (Completion("fine"), None, Completion("fine"))


TOO_LONG = sends('{"error": {"code": "context_length_exceeded"}}', status=400)


@pytest.mark.parametrize("batch", [OBSERVATIONS, OBSERVATIONS[1:2]])
def test_prompts_that_are_too_long_for_the_server_s_model_are_named(batch: list[Any], upstream) -> None:
    def script(body: dict, _: int):
        return TOO_LONG if body["messages"][-1]["content"] == PROCESS.text else says("fine")

    with agent(upstream(script)) as asked, pytest.raises(UnreadablePromptError) as error:
        asked.act(batch)
    assert [batch[row]["prompt"] for row in error.value.rows] == [PROCESS.text]
    assert error.value.partial == tuple(None if o["prompt"] == PROCESS.text else Completion("fine") for o in batch)
    assert error.value.kind == "too_long"


def test_another_failure_beside_a_prompt_that_is_too_long_is_what_is_told(upstream) -> None:
    def script(body: dict, _: int):
        return TOO_LONG if body["messages"][-1]["content"] == PROCESS.text else fails(500)

    with agent(upstream(script), retries=0) as asked, pytest.raises(AgentError, match="status 500") as error:
        asked.act(OBSERVATIONS)
    assert error.value.kind == "error"


def test_the_deadline_is_for_the_whole_call_with_its_retries_and_its_queue(upstream) -> None:
    server = upstream(in_turn(says("first"), hangs))
    start = time.monotonic()
    with agent(server, deadline=0.5, max_concurrent=1) as asked:
        with pytest.raises(AgentError, match="deadline of 0.5 s") as error:
            asked.act(OBSERVATIONS)
        assert time.monotonic() - start < 5
    assert error.value.kind == "timeout"
    assert error.value.partial == (Completion("first"), None, None)


def test_no_error_message_quotes_what_was_said(upstream) -> None:
    secretive = sends('{"error": {"message": "SECRET"}}', status=400)
    with agent(upstream(always(secretive))) as asked, pytest.raises(AgentError) as error:
        asked.act(OBSERVATIONS)
    assert "SECRET" not in str(error.value)
    assert not any(prompt.text in str(error.value) for prompt in PROMPTS)


def test_ids_and_logprobs_are_kept_as_the_server_sampled_them(upstream) -> None:
    server = upstream(always(sends(completion("ab", prompt_token_ids=[1, 2, 3], **IDS))))
    with agent(server, token_ids=True) as asked:
        assert asked.act(OBSERVATIONS[:1]) == [Completion("ab", "stop", (1, 2, 3), (5, 6), (-0.5, -1.25))]
    request = server.requests[0]
    assert request["return_token_ids"] is True
    assert request["logprobs"] is True
    assert (request["top_p"], request["top_k"]) == (1.0, -1)


@pytest.mark.parametrize(
    "body",
    [
        completion("ab"),
        completion("ab", **IDS),
        completion("ab", prompt_token_ids=[1]),
        completion(
            "ab", prompt_token_ids=[1], choice={"token_ids": [5, 6], "logprobs": {"content": [{"logprob": -1}]}}
        ),
    ],
)
def test_ids_that_are_missing_or_do_not_fit_are_left_out_and_a_learner_refuses(body: str, upstream) -> None:
    with agent(upstream(always(sends(body))), token_ids=True) as asked:
        (game,) = play([PROCESS], {CONVERSATION: asked}, rules=Rules(max_rounds=0))
    assert game.final.completion == Completion("ab")
    with pytest.raises(UsageError, match="cannot be trained on"):
        samples(judge_games([game], WordJudge()), CONVERSATION, weights=SETUP_A, rng=np.random.default_rng(0))


def test_ids_that_were_not_asked_for_are_not_kept(upstream) -> None:
    with agent(upstream(always(sends(completion("ab", prompt_token_ids=[1, 2, 3], **IDS))))) as asked:
        assert asked.act(OBSERVATIONS[:1]) == [Completion("ab")]


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": 0.7},
        {"json_schema": JSON_SCHEMA},
        {"server": ServerClient(api_key="none", parameters={"top_p": 0.9})},
    ],
)
def test_ids_of_another_distribution_are_refused(setting: dict) -> None:
    with pytest.raises(UsageError, match="token_ids"):
        OpenAIAgent("m", conversation_messages, **{"server": ServerClient(api_key="none"), **setting}, token_ids=True)


def test_a_missing_key_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError, match="OPENAI_API_KEY"):
        OpenAIAgent("m", conversation_messages)


def test_it_keeps_the_protocol_whatever_the_texts_hold(upstream) -> None:
    with agent(upstream(always(says("fine")))) as asked:
        agent_test(asked, roles=[CONVERSATION], deterministic=True)


def test_it_can_be_awaited_and_it_can_block_within_a_running_loop(upstream) -> None:
    async def both(asked: OpenAIAgent) -> list[Completion]:
        return [*await asked.aact(OBSERVATIONS[:1]), *asked.act(OBSERVATIONS[1:2])]

    with agent(upstream(echoes)) as asked:
        assert isinstance(asked, AsyncAgent)
        texts = [completion.text for completion in asyncio.run(both(asked))]
    assert texts == [prompt.text.upper() for prompt in PROMPTS[:2]]


def test_cancelling_drops_the_requests(upstream) -> None:
    server = upstream(always(hangs))

    async def cancel(asked: OpenAIAgent) -> None:
        task = asyncio.create_task(asked.aact(OBSERVATIONS))
        await asyncio.to_thread(server.wait_for, lambda: len(server.requests) == 3)
        task.cancel()
        await asyncio.to_thread(server.wait_for, lambda: server.left == 3)

    with agent(server) as asked:
        asyncio.run(asyncio.wait_for(cancel(asked), 20))


def test_it_plays_the_game(upstream) -> None:
    with agent(upstream(in_turn(says("draft"), says("revision")))) as asked:
        feedback = Speaker(json.dumps({"reasoning": "", "unsafe": True, "overrefuse": False, "feedback": "Do better."}))
        (game,) = play([PROCESS], {CONVERSATION: asked, FEEDBACK: feedback})
    assert [response.text for response in game.responses] == ["draft", "revision"]
