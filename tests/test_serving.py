"""The chat server: the official client over a real uvicorn on loopback, well-behaved and not."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.chat_server import serving
from tests.games import REFUSING, SAFE, UNSAFE, Speaker, critique
from tests.tiny import tiny_model, tiny_tokenizer
from tests.upstream import Upstream, always, drops, fails, hangs, says, sends
from tests.waiting import wait_until
from waltz_env import CONVERSATION, FEEDBACK, Completion, UsageError
from waltz_env.agents.openai_agent import OpenAIAgent
from waltz_env.agents.templates import TEMPLATES, conversation_messages
from waltz_env.cli.serve import Serve
from waltz_env.presets import lora_pair
from waltz_env.server_client import ServerClient
from waltz_env.serving import Duet, Limits
from waltz_env.serving.http.recorder import JsonLines
from waltz_env.testing import agent_test
from waltz_env.types import Observation

ROOT = Path(__file__).parents[1]
CHAT: Any = [{"role": "user", "content": "How do I kill a process?"}]
DRAFT, REVISION = "A DRAFT that nobody may see.", "A revision of several words, longer than one piece of a stream."
ADVICE = "Leave the ADVICE out."
FLAGS = critique(UNSAFE, ADVICE).completion.text
PASSES = critique(SAFE, "Keep it.").completion.text


def pair(critic: str = FLAGS, **options) -> Duet:
    return Duet({CONVERSATION: Speaker(DRAFT, REVISION), FEEDBACK: Speaker(critic)}, **options)


def client(url: str, key: str = "none", retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=retries, timeout=30)


def ask(url: str, **fields) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json={"model": "waltz", "messages": CHAT, **fields}, timeout=30)


def metric(url: str, line: str) -> float:
    """The value of a sample, named with its labels; 0 where there is none."""
    found = re.search(rf"^{re.escape(line)} (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def behind(conversation: Upstream, feedback: Upstream | None = None, **options) -> Duet:
    """A pair on servers; tried once, so that trouble shows at once."""
    servers = {CONVERSATION: conversation} | ({FEEDBACK: feedback} if feedback else {})
    agents = {
        role: OpenAIAgent("m", TEMPLATES[role], server=server.client(retries=0)) for role, server in servers.items()
    }
    return Duet(agents, mode="adaptive" if feedback else "off", **options)


class Waits:
    """A conversation agent that answers when it is told to."""

    def __init__(self) -> None:
        self.asked, self.answer = threading.Event(), threading.Event()

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        self.asked.set()
        assert self.answer.wait(30)
        return [Completion("at last")] * len(observations)


# Answers


def test_the_official_client_gets_an_answer() -> None:
    with serving(pair()) as url, client(url) as api:
        answer = api.chat.completions.create(model="waltz", messages=CHAT, temperature=0.2, max_tokens=9, seed=1)
        assert [model.id for model in api.models.list()] == ["waltz"]
    assert (answer.object, answer.model) == ("chat.completion", "waltz")
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", REVISION, "stop")
    assert "waltz" not in (answer.model_extra or {})


def test_a_stream_gives_the_final_text_alone_piece_by_piece() -> None:
    with serving(pair()) as url, client(url) as api:
        chunks = list(api.chat.completions.create(model="waltz", messages=CHAT, stream=True))
        raw = ask(url, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == REVISION
    assert len([piece for piece in pieces if piece]) > 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.text.endswith("data: [DONE]\n\n")
    assert "DRAFT" not in raw.text


def test_the_verdict_is_told_to_those_who_ask_and_never_the_draft_or_the_advice() -> None:
    with serving(pair()) as url, client(url) as api:
        answer = api.chat.completions.create(model="waltz", messages=CHAT, extra_body={"waltz": {"details": True}})
        raw = [ask(url, waltz={"details": True}).text, ask(url, stream=True, waltz={"details": True}).text]
    verdict = (answer.model_extra or {})["waltz"]
    latency = verdict.pop("latency")
    assert verdict == {
        "mode": "adaptive",
        "triggered": True,
        "unsafe": True,
        "overrefuse": False,
        "revised": True,
        "refused": False,
        "failure": None,
    }
    assert latency.keys() == {"draft", "feedback", "revision", "total"}
    for text in raw:
        assert '"triggered":true' in text
        assert "DRAFT" not in text
        assert "ADVICE" not in text


def test_a_chat_of_several_turns_reaches_the_conversation_agent(upstream) -> None:
    server = upstream(always(says("fine")))
    turns = [
        {"role": "system", "content": "Rhyme."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    with serving(behind(server)) as url:
        assert ask(url, messages=turns).status_code == 200
    system, *others = server.requests[0]["messages"]
    assert system["content"].endswith("\n\nRhyme.")
    assert others == [{"role": "user", "content": "ab"}, *turns[2:]]


def test_a_real_model_answers_and_tells_its_tokens() -> None:
    agents = lora_pair(tiny_model(), tiny_tokenizer(), max_new_tokens=6)[1]
    with serving(Duet(agents)) as url, client(url) as api, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: api.chat.completions.create(model="waltz", messages=CHAT), range(8)))
        streamed = list(
            api.chat.completions.create(
                model="waltz", messages=CHAT, stream=True, stream_options={"include_usage": True}
            )
        )
    for answer in answers:
        assert answer.usage is not None
        assert 0 < answer.usage.completion_tokens <= 12  # a draft and a feedback
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert streamed[-1].choices == []
    assert streamed[-1].usage is not None


def test_a_pair_can_stand_behind_another_as_a_server() -> None:
    inner = Duet({CONVERSATION: Speaker("inner")}, mode="off")
    with serving(inner, limits=Limits(chat_chars=200_000)) as url:
        agent = OpenAIAgent("waltz", conversation_messages, server=ServerClient(f"{url}/v1", api_key="none"))
        with closing(agent):
            agent_test(agent, roles=[CONVERSATION], deterministic=True)
            with serving(Duet({CONVERSATION: agent}, mode="off")) as outer:
                assert ask(outer).json()["choices"][0]["message"]["content"] == "inner"


def test_text_that_no_encoding_carries_is_mended() -> None:
    with serving(Duet({CONVERSATION: Speaker("a\ud800b")}, mode="off")) as url:
        surrogate = json.dumps({"model": "waltz", "messages": [{"role": "user", "content": "\ud800"}]})
        headers = {"content-type": "application/json"}
        answer = httpx.post(f"{url}/v1/chat/completions", content=surrogate, headers=headers)
        assert answer.json()["choices"][0]["message"]["content"] == "a?b"
        assert "a?b" in ask(url, stream=True).text


# Requests that cannot be answered


def test_another_model_is_not_found() -> None:
    with serving(pair()) as url, client(url) as api, pytest.raises(openai.NotFoundError) as error:
        api.chat.completions.create(model="other", messages=CHAT)
    assert error.value.code == "model_not_found"


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": [*CHAT, {"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": "hello"},
        {"n": 2},
        {"logprobs": True},
        {"stop": ["x"]},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"waltz": {"mode": "off"}},
        {"stream": "perhaps"},
    ],
)
def test_what_the_pair_cannot_do_is_refused(fields: dict) -> None:
    with serving(pair()) as url:
        body = json.dumps({"model": "waltz", "messages": CHAT, **fields})
        answer = httpx.post(f"{url}/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"null", b'{"model": NaN}', b"[" * 100_000, b"1" * 10_000])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with serving(pair()) as url:
        answer = httpx.post(f"{url}/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_other_paths_and_methods_get_errors_of_the_same_form() -> None:
    with serving(pair()) as url:
        answers = [httpx.get(f"{url}/v2"), httpx.get(f"{url}/v1/chat/completions"), httpx.delete(f"{url}/healthz")]
    assert [answer.status_code for answer in answers] == [404, 405, 405]
    assert all(answer.json()["error"]["code"] in {"not_found", "method_not_allowed"} for answer in answers)


def test_a_key_is_needed_where_one_is_set() -> None:
    with serving(pair(), api_keys=["right", "other"]) as url:
        for key in ("right", "other"):
            with client(url, key) as api:
                assert api.chat.completions.create(model="waltz", messages=CHAT).choices
        for key in ("wrong", "righ", "right2"):
            with client(url, key) as api, pytest.raises(openai.AuthenticationError) as error:
                api.models.list()
            assert error.value.code == "invalid_api_key"
        headers: list[Any] = [
            {},
            {"Authorization": "right"},
            {"Authorization": "Basic right"},
            {"Authorization": b"Bearer \xe9"},
        ]
        assert {httpx.get(f"{url}/v1/models", headers=header).status_code for header in headers} == {401}
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
        assert httpx.get(f"{url}/metrics").status_code == 200


# Limits


def test_a_large_body_is_refused_with_and_without_its_length_declared() -> None:
    large = json.dumps({"model": "waltz", "messages": [{"role": "user", "content": "x" * 5_000_000}]}).encode()
    with serving(pair(), limits=Limits(body_bytes=10_000)) as url:
        chat = f"{url}/v1/chat/completions"
        assert httpx.post(chat, content=large).status_code == 413
        assert httpx.post(chat, content=iter([large[:6_000], large[6_000:12_000]])).status_code == 413
        with client(url) as api, pytest.raises(openai.APIStatusError) as error:
            api.chat.completions.create(model="waltz", messages=[{"role": "user", "content": "x" * 5_000_000}])
        assert error.value.status_code == 413
        assert ask(url).status_code == 200


def test_a_long_chat_is_refused() -> None:
    with serving(pair(), limits=Limits(chat_chars=100)) as url:
        assert ask(url, messages=[{"role": "user", "content": "x" * 100}]).status_code == 200
        answer = ask(url, messages=[{"role": "user", "content": "x" * 101}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "messages_too_long")


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    with serving(pair(), limits=Limits(body_seconds=0.2)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as slow:
            slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert ask(url).status_code == 200


def test_too_many_at_once_are_turned_away_and_told_when_to_come_back() -> None:
    agent = Waits()
    duet = Duet({CONVERSATION: agent}, mode="off")
    with serving(duet, limits=Limits(concurrent=2)) as url, ThreadPoolExecutor(2) as threads:
        admitted = [threads.submit(ask, url) for _ in range(2)]
        wait_until(lambda: metric(url, "waltz_requests_in_flight") == 2)
        turned_away = ask(url)
        assert httpx.get(f"{url}/healthz").status_code == 200
        agent.answer.set()
        assert [each.result().status_code for each in admitted] == [200, 200]
        with client(url, retries=2) as api:
            assert api.chat.completions.create(model="waltz", messages=CHAT).choices
    assert turned_away.status_code == 429
    assert turned_away.headers["retry-after"] == "1"
    assert turned_away.json()["error"]["code"] == "too_many_requests"


# Trouble behind the server


@pytest.mark.parametrize(
    ("trouble", "status"), [(hangs, 504), (drops, 503), (fails(503), 503), (fails(500), 502), (says(""), 200)]
)
def test_trouble_of_the_conversation_agent_has_a_status_of_its_own(trouble, status: int, upstream) -> None:
    with serving(behind(upstream(always(trouble)), timeout=1.0)) as url:
        answer = ask(url)
        streamed = ask(url, stream=True)
    assert answer.status_code == streamed.status_code == status
    assert (answer.headers.get("retry-after") == "1") == (status == 503)
    if status != 200:
        assert answer.json()["error"]["message"].startswith("The conversation agent")


def test_messages_that_do_not_fit_the_model_s_context_are_the_client_s_to_shorten(upstream) -> None:
    too_long = sends('{"error": {"code": "context_length_exceeded"}}', status=400)
    with serving(behind(upstream(always(too_long)))) as url:
        answer = ask(url)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("policy", ["fail_open", "fail_closed"])
@pytest.mark.parametrize(
    ("trouble", "kind"),
    [(hangs, "timeout"), (drops, "unavailable"), (fails(500), "error"), (says("I like it."), "malformed")],
)
def test_trouble_of_the_feedback_agent_costs_what_the_policy_says(trouble, kind: str, policy: str, upstream) -> None:
    duet = behind(upstream(always(says("draft"))), upstream(always(trouble)), on_failure=policy, feedback_timeout=0.5)
    with serving(duet) as url:
        answer = ask(url, waltz={"details": True}).json()
        counted = metric(url, f'waltz_failures_total{{agent="feedback_0",kind="{kind}"}}')
        refused = metric(url, "waltz_refused_total")
    (choice,) = answer["choices"]
    if policy == "fail_open":
        assert (choice["message"]["content"], choice["finish_reason"]) == ("draft", "stop")
    else:
        assert (choice["message"]["content"], choice["finish_reason"]) == (duet.refusal, "content_filter")
    assert answer["waltz"]["failure"] == f"feedback_0: {kind}"
    assert answer["waltz"]["refused"] == (policy == "fail_closed")
    assert counted == 1
    assert refused == (policy == "fail_closed")


def test_an_upstream_that_restarts_is_found_again(upstream) -> None:
    server = upstream(always(says("fine")))
    with serving(behind(server)) as url:
        assert ask(url).status_code == 200
        server.stop()
        assert ask(url).status_code == 503
        server.start()
        assert ask(url).status_code == 200


def test_a_client_that_hangs_up_frees_its_place(upstream) -> None:
    server = upstream(always(hangs))
    with serving(behind(server)) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/chat/completions", json={"model": "waltz", "messages": CHAT}, timeout=0.5)
        wait_until(lambda: metric(url, "waltz_requests_in_flight") == 0 and server.left == 1)
        assert metric(url, 'waltz_requests_total{status="499"}') == 1


# What operators see


def test_metrics_count_requests_triggers_and_times() -> None:
    with serving(pair()) as url:
        for _ in range(3):
            ask(url)
        ask(url, model="other")
        counted = {
            line: metric(url, line)
            for line in (
                'waltz_requests_total{status="200"}',
                'waltz_requests_total{status="404"}',
                "waltz_critiques_total",
                "waltz_triggered_total",
                'waltz_phase_seconds_count{phase="draft"}',
                'waltz_phase_seconds_count{phase="revision"}',
                'waltz_phase_seconds_bucket{le="+Inf",phase="total"}',
                "waltz_requests_in_flight",
            )
        }
    assert list(counted.values()) == [3, 1, 3, 3, 3, 3, 3, 0]


@pytest.mark.parametrize("log_text", [False, True])
def test_the_log_has_a_line_of_json_for_each_request_and_no_text_unless_told_to(log_text: bool, caplog) -> None:
    caplog.set_level(logging.INFO)
    with serving(pair(critique(REFUSING, ADVICE).completion.text), log_text=log_text, api_keys=["KEY"]) as url:
        with client(url, "KEY") as api:
            api.chat.completions.create(model="waltz", messages=CHAT)
        httpx.get(f"{url}/v1/models?SECRET")
        httpx.get(f"{url}/SECRET")
    lines = [JsonLines().format(record) for record in caplog.records if record.name.startswith("waltz_env")]
    answered, refused, lost = (json.loads(line) for line in lines)
    assert (answered["event"], answered["method"], answered["path"]) == ("request", "POST", "/v1/chat/completions")
    assert (answered["status"], answered["triggered"], answered["overrefuse"]) == (200, True, True)
    assert answered["latency"]["total"] > 0
    assert re.fullmatch(r"[0-9a-f]{32}", answered["request_id"])
    assert (refused["status"], lost["status"], lost["path"]) == (401, 404, "other")
    assert ("process" in lines[0]) == log_text
    assert ("revision of" in lines[0]) == log_text
    for word in ("DRAFT", "ADVICE", "KEY", "SECRET"):
        assert not any(word in line for line in lines)


def test_an_exception_is_logged_by_its_type_and_place_without_its_message() -> None:
    try:
        raise ValueError("SECRET")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "It broke.", None, sys.exc_info())
    line = JsonLines().format(record)
    assert "SECRET" not in line
    assert json.loads(line)["exception"] == "ValueError"
    assert "test_serving.py" in json.loads(line)["frames"][0]


def test_each_answer_carries_the_id_that_is_in_the_log(caplog) -> None:
    caplog.set_level(logging.INFO, logger="waltz_env")
    with serving(pair()) as url:
        answer = ask(url)
    (record,) = [record for record in caplog.records if record.name.startswith("waltz_env")]
    assert json.loads(JsonLines().format(record))["request_id"] == answer.headers["x-request-id"]


# The command


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "a server for each role"),
        ({"conversation_url": "http://127.0.0.1:9/v1"}, "a server for each role"),
        ({"agents": "smolm2"}, "Did you mean 'smollm2'"),
        ({"agents": "scripted", "max_rounds": -1}, "max_rounds"),
    ],
)
def test_a_pair_that_cannot_be_served_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Serve(**settings).duet()


def test_scripted_agents_and_any_model_can_be_served(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    for agents in ("scripted", str(tmp_path)):
        with closing(Serve(agents, max_new_tokens=4).duet()) as duet:
            replies = duet.respond_batch([CHAT] * 2)
        assert all(reply.game.critiques for reply in replies)


def test_the_command_finishes_what_is_under_way_when_it_is_told_to_stop(upstream) -> None:
    conversation, feedback = upstream(always(says("draft", after=1.0))), upstream(always(says(PASSES)))
    run = "import sys; from waltz_env.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", run, "serve", "--port", "0"]
    command += ["--conversation-url", conversation.url, "--feedback-url", feedback.url]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            lines = iter(process.stderr.readline, "")
            url = next(found[0] for line in lines if (found := re.search(r"http://127[.\d:]+", line)))
            with ThreadPoolExecutor(4) as threads:
                under_way = [threads.submit(ask, url) for _ in range(4)]
                wait_until(lambda: conversation.now == 4)
                process.send_signal(signal.SIGTERM)
                answers = [each.result() for each in under_way]
            process.wait(30)
        finally:
            process.kill()
    assert [answer.json()["choices"][0]["message"]["content"] for answer in answers] == ["draft"] * 4
    with pytest.raises(httpx.ConnectError):
        ask(url)
