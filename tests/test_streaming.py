"""An answer goes out while it is written, and nothing that the feedback agent has not approved goes out at all."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import pairwise
from typing import Any

import httpx
import openai
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.chat_server import running, serving
from tests.games import REFUSING, SAFE, UNSAFE, Speaker, critique
from tests.test_serving import CHAT, behind, client, line_of, log, metric, wait_for_metric
from tests.tiny import tiny_model, tiny_tokenizer
from tests.upstream import Answer, Json, always, fails, hangs, says
from waltz_env import CONVERSATION, FEEDBACK, Completion
from waltz_env.agents.openai_agent import OpenAIAgent
from waltz_env.agents.templates import TEMPLATES
from waltz_env.errors import AgentError, UsageTypeError
from waltz_env.presets import lora_pair
from waltz_env.rules import Rules
from waltz_env.sampling_options import SamplingOptions
from waltz_env.serving import Duet, create_app
from waltz_env.serving.telling import certain
from waltz_env.types import Observation

DRAFT, REVISION = "A DRAFT that nobody may see.", "A revision in some words."
FLAGS = critique(UNSAFE, "Leave the ADVICE out.").completion.text
PASSES = critique(SAFE).completion.text
BEGUN = "A revision"


def delta(text: str | None, finish: str | None = None, **fields: Any) -> str:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice], **fields})


def streams(*events: str | threading.Event | Answer, breaks_off: bool = False) -> Answer:
    """A stream of these events, which waits at each ``threading.Event``; ``breaks_off``: it has no end."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in events:
            if isinstance(event, threading.Event):
                await asyncio.to_thread(event.wait, 20)
            elif callable(event):
                await event(writer)
            else:
                line = f"data: {event}\n\n".encode()
                writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                await writer.drain()
        if not breaks_off:
            writer.write(b"0\r\n\r\n")
            await writer.drain()

    return send


def whole(text: str, *, pieces: int = 1, finish: str = "stop") -> Answer:
    """A good stream of the text, in pieces of so many characters."""
    parts = [text[start : start + pieces] for start in range(0, len(text), pieces)]
    usage = json.dumps({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 22}})
    return streams(*map(delta, parts), delta(None, finish), usage, "[DONE]")


def revises(answer: Answer) -> Callable[[Json, int], Answer]:
    """A conversation agent that drafts, and revises like this."""
    return lambda body, number: answer if "ADVICE" in str(body) else says(DRAFT)


def events_of(answer: httpx.Response) -> list[Any]:
    """The events of a whole stream; ``[DONE]`` as None."""
    lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    return [None if line == "[DONE]" else json.loads(line) for line in lines]


def ask(url: str, **fields) -> httpx.Response:
    body = {"model": "waltz", "messages": CHAT, "stream": True, **fields}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)


def text_of(events: Sequence[Any]) -> str:
    deltas = [choice["delta"] for event in events if event for choice in event.get("choices", ())]
    return "".join(each.get("content") or "" for each in deltas)


def test_a_revision_goes_out_while_it_is_written(upstream) -> None:
    rest = threading.Event()
    revising = streams(delta(BEGUN), rest, delta(" in some words."), delta(None, "stop"), "[DONE]")
    server = upstream(revises(revising))
    with serving(behind(server, upstream(always(says(FLAGS))))) as url, client(url) as api:
        arriving = api.chat.completions.create(model="waltz", messages=CHAT, stream=True)
        chunks = iter(arriving)
        texts = [next(chunks).choices[0].delta.content, next(chunks).choices[0].delta.content]
        assert texts == ["", BEGUN]
        assert arriving.response.headers["x-waltz-review"] == "reviewed"
        rest.set()  # only now does the server write the rest
        later = [chunk.choices[0] for chunk in chunks]
    assert "".join(choice.delta.content or "" for choice in later) == " in some words."
    assert later[-1].finish_reason == "stop"


def test_a_draft_is_asked_for_as_a_whole_and_never_shown(upstream) -> None:
    server = upstream(revises(whole(REVISION)))
    with serving(behind(server, upstream(always(says(FLAGS))))) as url, log() as lines:
        answer = ask(url, stream_options={"include_usage": True})
        line = line_of(answer, lines)
        assert metric(url, 'waltz_answers_total{review="reviewed"}') == 1
    events = events_of(answer)
    assert text_of(events) == REVISION
    assert "DRAFT" not in answer.text
    assert "ADVICE" not in answer.text
    assert events[-1] is None
    assert events[-2]["usage"]["completion_tokens"] > 22  # the revision's, as the server counted, and what is hidden
    assert {event["id"] for event in events if event} == {events[0]["id"]}
    assert [request.get("stream") for request in server.requests] == [None, True]
    assert (line["stream"], line["review"], line["revised"]) == (True, "reviewed", True)


def test_an_approved_draft_goes_out_at_once_and_is_not_asked_for_again(upstream) -> None:
    server = upstream(always(says(DRAFT)))
    with serving(behind(server, upstream(always(says(PASSES))))) as url:
        assert text_of(events_of(ask(url))) == DRAFT
    assert len(server.requests) == 1


def test_whoever_does_not_stream_gets_the_same(upstream) -> None:
    server = upstream(revises(says(REVISION)))
    with serving(behind(server, upstream(always(says(FLAGS))))) as url:
        assert ask(url, stream=False).json()["choices"][0]["message"]["content"] == REVISION
    assert all("stream" not in request for request in server.requests)


def test_without_feedback_the_answer_streams_and_is_called_unreviewed(upstream) -> None:
    rest = threading.Event()
    server = upstream(always(streams(delta("One"), rest, delta(" two."), delta(None, "length"), "[DONE]")))
    with serving(behind(server)) as url, client(url) as api:
        arriving = api.chat.completions.create(model="waltz", messages=CHAT, stream=True)
        chunks = iter(arriving)
        assert [next(chunks).choices[0].delta.content for _ in range(2)] == ["", "One"]
        assert arriving.response.headers["x-waltz-review"] == "unreviewed"
        rest.set()
        *_, last = chunks
    assert last.choices[0].finish_reason == "length"


@pytest.mark.parametrize("pieces", [1, 3, 100])
@pytest.mark.parametrize(("stop", "text"), [("some", "A revision in "), (["words.", "in so"], "A revision ")])
def test_nothing_of_a_stop_string_goes_out(stop: Any, text: str, pieces: int, upstream) -> None:
    server = upstream(revises(whole(REVISION, pieces=pieces)))
    with serving(behind(server, upstream(always(says(FLAGS))))) as url:
        assert text_of(events_of(ask(url, stop=stop))) == text


@given(st.text("ab"), st.lists(st.text("ab", min_size=1, max_size=3), max_size=2))
@example("baa", ["a", "baa"])
def test_what_is_certain_only_grows_and_is_the_text_that_a_stop_string_leaves(text: str, stops: list[str]) -> None:
    certainties = [certain(text[:end], tuple(stops)) for end in range(len(text) + 1)]
    assert all(later.startswith(earlier) for earlier, later in pairwise(certainties))
    ends = [text.find(stop) for stop in stops if stop in text]
    assert (text[: min(ends)] if ends else text).startswith(certainties[-1])


def test_a_limit_holds_for_a_revision_that_streams(upstream) -> None:
    server = upstream(revises(whole(REVISION, finish="length")))
    with serving(behind(server, upstream(always(says(FLAGS))))) as url:
        events = events_of(ask(url, max_tokens=5))
    assert [request["max_tokens"] for request in server.requests] == [5, 5]
    assert events[-2]["choices"][0]["finish_reason"] == "length"


BROKEN = {
    "drops": streams(delta(BEGUN), breaks_off=True),
    "error": streams(delta(BEGUN), '{"error": {"message": "SECRET"}}'),
    "no JSON": streams(delta(BEGUN), "{"),
    "no chunk": streams(delta(BEGUN), '{"choices": "SECRET"}', delta(None, "stop"), "[DONE]"),
    "no end": streams(delta(BEGUN), "[DONE]"),
}


@pytest.mark.parametrize(("trouble", "policy"), [*((kind, "fail_open") for kind in BROKEN), ("drops", "fail_closed")])
def test_an_answer_that_breaks_off_ends_with_an_error(trouble: str, policy: Any, upstream) -> None:
    server = upstream(revises(BROKEN[trouble]))
    duet = behind(server, upstream(always(says(FLAGS))), on_failure=policy)
    with serving(duet) as url, log() as lines:
        answer = ask(url)
        *begun, last = events_of(answer)
        assert text_of(begun) == BEGUN
        assert last["error"]["code"] == {"drops": "unavailable"}.get(trouble, "agent_error")
        assert "SECRET" not in answer.text
        assert len(server.requests) == 2  # what has been begun is not tried again
        assert line_of(answer, lines)["level"] == "warning"
        wait_for_metric(url, "waltz_requests_in_flight", 0)
        with client(url) as api, pytest.raises(openai.APIError):
            list(api.chat.completions.create(model="waltz", messages=CHAT, stream=True))
    assert sum(duet.failures.values()) == 2


def test_a_revision_that_takes_too_long_breaks_off(upstream) -> None:
    server = upstream(revises(streams(delta(BEGUN), hangs)))
    with serving(behind(server, upstream(always(says(FLAGS))), timeout=1.0)) as url:
        *begun, last = events_of(ask(url))
    assert text_of(begun) == BEGUN
    assert last["error"]["code"] == "timeout"


@pytest.mark.parametrize("policy", ["fail_closed", "fail_open"])
@pytest.mark.parametrize("trouble", [fails(500), streams("[DONE]"), streams('{"error": {"message": "no"}}')])
def test_a_revision_that_fails_before_it_has_begun_costs_what_the_policy_says(
    trouble: Answer, policy: Any, upstream
) -> None:
    critic = upstream(always(says(critique(REFUSING, "Leave the ADVICE out.").completion.text)))
    duet = behind(upstream(revises(trouble)), critic, on_failure=policy)
    with serving(duet) as url:
        events = events_of(ask(url))
    assert text_of(events) == {"fail_closed": duet.refusal, "fail_open": DRAFT}[policy]
    assert events[-1] is None


def test_a_client_that_hangs_up_in_the_middle_ends_the_work(upstream) -> None:
    server = upstream(revises(streams(delta(BEGUN), hangs)))
    with serving(behind(server, upstream(always(says(FLAGS))))) as url:
        with client(url) as api:
            arriving = api.chat.completions.create(model="waltz", messages=CHAT, stream=True)
            chunks = iter(arriving)
            assert [next(chunks).choices[0].delta.content for _ in range(2)] == ["", BEGUN]
            arriving.close()
        server.wait_for(lambda: server.left == 1)
        wait_for_metric(url, "waltz_requests_in_flight", 0)


def test_a_client_that_hangs_up_before_the_stream_ends_the_work_too(upstream) -> None:
    server = upstream(revises(hangs))
    with serving(behind(server, upstream(always(says(FLAGS))))) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{url}/v1/chat/completions", json={"model": "waltz", "messages": CHAT, "stream": True}, timeout=1.0
            )
        server.wait_for(lambda: server.left == 1)
        wait_for_metric(url, "waltz_requests_in_flight", 0)


def test_a_server_that_stops_tells_those_who_listen(upstream) -> None:
    duet = behind(upstream(revises(streams(delta(BEGUN), hangs))), upstream(always(says(FLAGS))))
    with httpx.Client(timeout=30) as http:
        with running(create_app(duet), drain=0) as url:
            body = {"model": "waltz", "messages": CHAT, "stream": True}
            request = http.build_request("POST", f"{url}/v1/chat/completions", json=body)
            answer = http.send(request, stream=True)
            lines = answer.iter_lines()
            assert next(line for line in lines if BEGUN in line)
        *_, last = (line for line in lines if line)
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"


def test_an_agent_that_cannot_stream_sends_the_whole_revision() -> None:
    heard: list[str] = []
    with closing(Duet({CONVERSATION: Speaker(DRAFT, REVISION), FEEDBACK: Speaker(FLAGS)})) as duet:
        assert duet.respond(CHAT, options=SamplingOptions(on_text=heard.append)).text == REVISION
        assert heard == []
        with serving(duet) as url:
            assert text_of(events_of(ask(url))) == REVISION


def test_a_server_that_refuses_to_stream_is_asked_for_the_whole(upstream) -> None:
    server = upstream(revises(says(REVISION)))
    agents: dict[str, Any] = {
        CONVERSATION: OpenAIAgent("m", TEMPLATES[CONVERSATION], server=server.client(parameters={"stream": None})),
        FEEDBACK: Speaker(FLAGS),
    }
    with serving(Duet(agents)) as url:
        assert text_of(events_of(ask(url))) == REVISION
    assert all("stream" not in request for request in server.requests)


class Tells:
    """A conversation agent that tells the beginning of each of its texts, then says one."""

    def __init__(self, *turns: tuple[list[str], str]) -> None:
        self.turns = turns

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        return self.act_with(observations, [SamplingOptions()] * len(observations))

    def act_with(
        self,
        observations: Sequence[Observation],
        options: Sequence[SamplingOptions],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[Completion]:
        said = []
        for observation, wanted in zip(observations, options, strict=True):
            told, text = self.turns[len(observation["responses"])]
            if wanted.on_text is not None:
                for beginning in told:
                    wanted.on_text(beginning)
            said.append(Completion(text))
        return said


def heard_from(duet: Duet, **options) -> tuple[list[str], str]:
    heard: list[str] = []
    with closing(duet):
        return heard, duet.respond(CHAT, options=SamplingOptions(on_text=heard.append, **options)).text


def test_only_the_response_that_no_critique_can_follow_is_heard() -> None:
    tells = Tells((["A"], "A draft"), (["B"], "B revised"), (["C"], "C revised"))
    agents: dict[str, Any] = {CONVERSATION: tells, FEEDBACK: Speaker(FLAGS, FLAGS)}
    assert heard_from(Duet(agents, rules=Rules(max_rounds=2))) == (["C"], "C revised")
    assert heard_from(Duet(agents, rules=Rules(max_rounds=1))) == (["B"], "B revised")
    assert heard_from(Duet(agents, mode="off")) == (["A"], "A draft")
    passed: dict[str, Any] = {CONVERSATION: tells, FEEDBACK: Speaker(PASSES)}
    assert heard_from(Duet(passed)) == ([], "A draft")
    assert heard_from(Duet(passed, mode="always-on")) == (["B"], "B revised")


def test_what_is_heard_ends_where_the_rules_cut_the_text() -> None:
    agents = {CONVERSATION: Tells((["abc", "abcdef"], "abcdef"))}
    assert heard_from(Duet(agents, mode="off", rules=Rules(max_chars=4))) == (["abc", "abcd"], "abcd")


def test_a_second_attempt_that_begins_otherwise_is_an_error_once_the_first_was_heard() -> None:
    agents = {CONVERSATION: Tells((["One", "Two"], "Two three"))}
    heard: list[str] = []
    with (
        closing(Duet(agents, mode="off", on_failure="fail_open")) as duet,
        pytest.raises(AgentError, match="broke off"),
    ):
        duet.respond(CHAT, options=SamplingOptions(on_text=heard.append))
    assert heard == ["One"]


@pytest.mark.parametrize("thoughts_end", [None, "e"])
def test_a_model_in_this_process_tells_each_token_and_samples_the_same(thoughts_end: str | None) -> None:
    agents = lora_pair(
        tiny_model(),
        tiny_tokenizer(),
        max_new_tokens=40,
        thoughts_end={CONVERSATION: thoughts_end} if thoughts_end else {},
    )
    options = SamplingOptions(seed=3)
    observation: Observation = {
        "agent": CONVERSATION,
        "active": 1,
        "prompt": "Why?",
        "history": (),
        "responses": (),
        "feedback": (),
    }
    heard: list[str] = []
    listening = SamplingOptions(seed=3, on_text=heard.append)
    agent: Any = agents[CONVERSATION]
    silent, (told, other) = (
        agent.act_with([observation], [options]),
        agent.act_with([observation] * 2, [listening, options]),
    )
    assert told.text == other.text == silent[0].text
    assert told.token_ids == silent[0].token_ids
    assert len(set(heard)) > 5 or thoughts_end
    assert all(later.startswith(earlier) for earlier, later in pairwise(heard))
    assert told.text.startswith(heard[-1])


def test_a_real_pair_streams_its_revision() -> None:
    agents: dict[str, Any] = {**lora_pair(tiny_model(), tiny_tokenizer(), max_new_tokens=30), FEEDBACK: Speaker(FLAGS)}
    with serving(Duet(agents)) as url:
        streamed = text_of(events_of(ask(url, seed=5)))
        alone = ask(url, seed=5, stream=False).json()["choices"][0]["message"]["content"]
    assert streamed == alone


def test_a_listener_must_be_a_function() -> None:
    with pytest.raises(UsageTypeError, match="on_text"):
        SamplingOptions(on_text="print")  # type: ignore[arg-type]
