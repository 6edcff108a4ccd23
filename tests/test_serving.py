"""The chat server: the official client over a real uvicorn on loopback, well-behaved and not."""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.chat_server import serving
from tests.games import REFUSING, SAFE, UNSAFE, Speaker, critique
from tests.tiny import tiny_model, tiny_tokenizer
from tests.upstream import Upstream, always, completion, drops, fails, hangs, once, says, sends
from waltz_env import CONVERSATION, FEEDBACK, Completion, UsageError
from waltz_env.agents.openai_agent import OpenAIAgent
from waltz_env.agents.templates import TEMPLATES, conversation_messages
from waltz_env.cli.serve import Serve
from waltz_env.experiments.servers import Servers
from waltz_env.presets import lora_pair, preset
from waltz_env.run_folder import RunFolder
from waltz_env.sampling_options import SamplingOptions
from waltz_env.server_client import ServerClient
from waltz_env.serving import Duet, Limits
from waltz_env.serving.http.recorder import JsonLines
from waltz_env.settings import encode
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


def wait_for_metric(url: str, line: str, value: float) -> None:
    """Asks until the sample has the value."""
    for _ in range(2000):
        if metric(url, line) == value:
            return
    raise AssertionError(f"{line} is {metric(url, line)}.")


@contextmanager
def log() -> Iterator[queue.Queue[dict[str, Any]]]:
    """The lines of the server's log, as they come: a line is written after its answer has been sent."""
    lines: queue.Queue[Any] = queue.Queue()
    handler = logging.handlers.QueueHandler(lines)
    handler.prepare = lambda record: json.loads(JsonLines().format(record))  # type: ignore[method-assign]
    logger = logging.getLogger("waltz_env.serving")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def line_of(answer: httpx.Response, lines: queue.Queue[dict[str, Any]]) -> dict[str, Any]:
    """The line about one answer, which lines about earlier requests may precede."""
    while True:
        line = lines.get(timeout=20)
        if line.get("request_id") == answer.headers["x-request-id"]:
            return line


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


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """A server for requests that leave nothing behind."""
    with serving(pair()) as url:
        yield url


# Answers


def test_the_official_client_gets_an_answer() -> None:
    with serving(pair()) as url, client(url) as api:
        answer = api.chat.completions.create(model="waltz", messages=CHAT, temperature=0.2, max_tokens=90, seed=1)
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
        "reviewed": True,
        "triggered": True,
        "unsafe": True,
        "overrefuse": False,
        "revised": True,
        "refused": False,
        "failure": None,
    }
    assert latency.keys() == {"draft", "feedback", "revision", "queue", "total"}
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
    agents = lora_pair(tiny_model(), tiny_tokenizer(), max_new_tokens=6)
    with serving(Duet(agents, on_failure="fail_open")) as url, client(url) as api, ThreadPoolExecutor(8) as threads:
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
        assert answer.usage.completion_tokens_details is not None
        hidden = answer.usage.completion_tokens_details.reasoning_tokens  # the feedback's
        assert hidden is not None
        assert 0 < hidden < answer.usage.completion_tokens
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


# Request parameters


SAMPLING = {"temperature": 0.3, "top_p": 0.9, "seed": 7, "max_tokens": 20, "stop": ["END", "\n\n"]}


def test_sampling_parameters_apply_to_draft_and_revision_and_never_to_the_feedback(upstream) -> None:
    conversation, feedback = upstream(always(says("text"))), upstream(always(says(FLAGS)))
    with serving(behind(conversation, feedback)) as url:
        answer = ask(url, **SAMPLING)
    assert answer.status_code == 200
    assert "x-waltz-ignored" not in answer.headers
    draft, revision = conversation.requests
    assert {name: draft[name] for name in SAMPLING} == {name: revision[name] for name in SAMPLING} == SAMPLING
    assert (feedback.requests[0]["temperature"], feedback.requests[0]["max_tokens"]) == (1.0, 512)
    assert not {"stop", "seed"} & feedback.requests[0].keys()


@pytest.mark.parametrize(
    ("fields", "limit"),
    [({"max_tokens": 9}, 9), ({"max_completion_tokens": 9}, 9), ({"max_tokens": 9000}, 512), ({}, 512)],
)
def test_a_client_may_lower_the_operators_token_limit_and_not_raise_it(fields: dict, limit: int, upstream) -> None:
    server = upstream(always(says("text")))
    with serving(behind(server)) as url:
        assert ask(url, **fields).status_code == 200
    assert server.requests[0]["max_tokens"] == limit


@pytest.mark.parametrize(
    ("fields", "text", "finish"),
    [
        ({"stop": "two"}, "One ", "stop"),
        ({"stop": ["three", "two"]}, "One ", "stop"),
        ({"stop": []}, "One two three four.", "stop"),
        ({"stop": None}, "One two three four.", "stop"),
        ({"stop": ["a", "b", "c", "d"]}, "One two three four.", "stop"),
        ({"max_tokens": 3}, "One two three", "length"),
        ({"max_completion_tokens": 3}, "One two three", "length"),
        ({"max_tokens": 3, "max_completion_tokens": 3, "stop": ["three"]}, "One two ", "stop"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_text_ends_where_the_request_says(fields: dict, text: str, finish: str, stream: bool) -> None:
    duet = Duet({CONVERSATION: Speaker("One two three four."), FEEDBACK: Speaker(PASSES)})
    with serving(duet) as url, client(url) as api:
        if stream:
            chunks = list(api.chat.completions.create(model="waltz", messages=CHAT, stream=True, **fields))
            said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            ends = chunks[-1].choices[0].finish_reason
        else:
            (choice,) = api.chat.completions.create(model="waltz", messages=CHAT, **fields).choices
            said, ends = choice.message.content, choice.finish_reason
    assert (said, ends) == (text, finish)


def test_a_seed_makes_a_local_model_repeat_itself_and_zero_temperature_is_greedy() -> None:
    def answers(**fields) -> set[str]:
        agents = lora_pair(tiny_model(), tiny_tokenizer(), max_new_tokens=8)
        with serving(Duet(agents, mode="off")) as url, ThreadPoolExecutor(4) as threads:
            replies = threads.map(lambda _: ask(url, **fields).json(), range(8))
            return {reply["choices"][0]["message"]["content"] for reply in replies}

    assert len(answers(seed=3)) == 1
    assert answers(seed=3) != answers(seed=4)
    assert answers(temperature=0) == answers(temperature=0, seed=5) == answers(top_p=1e-6)
    assert len(answers()) > 1


def test_options_that_an_agent_cannot_heed_are_named() -> None:
    with serving(pair()) as url:
        assert "x-waltz-ignored" not in ask(url, max_tokens=100, stop=["x"]).headers
        assert ask(url, temperature=0.5, seed=1).headers["x-waltz-ignored"] == "temperature, seed"


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "logprobs": False, "top_logprobs": 0, "logit_bias": {}, "modalities": ["text"]},
        {"tools": [], "tool_choice": "none", "functions": [], "function_call": "auto", "parallel_tool_calls": True},
        {"frequency_penalty": 0.0, "presence_penalty": 0, "repetition_penalty": 1.0, "top_k": -1, "min_p": 0},
        {"response_format": {"type": "text"}, "store": False, "user": "u", "metadata": {"a": "b"}},
        {"tools": None, "stop": None, "n": None, "temperature": None, "unheard_of": None, "stream": None},
        {"service_tier": "auto", "safety_identifier": "x", "prompt_cache_key": "x"},
    ],
)
def test_parameters_that_change_nothing_are_accepted(fields: dict, served: str) -> None:
    assert ask(served, **fields).status_code == 200


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"n": 2}, "n", "More than one choice per request is not supported by this server."),
        ({"tools": [{"type": "function"}]}, "tools", "Tool calls are not supported by this server."),
        ({"tool_choice": "required"}, "tool_choice", "Tool calls are not supported by this server."),
        ({"functions": [{"name": "f"}]}, "functions", "Function calls are not supported by this server."),
        ({"logprobs": True}, "logprobs", "Log-probabilities are not supported by this server."),
        ({"top_logprobs": 3}, "top_logprobs", "Log-probabilities are not supported by this server."),
        ({"response_format": {"type": "json_object"}}, "response_format", "Structured output is not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "Penalties are not supported by this server."),
        ({"logit_bias": {"5": 1}}, "logit_bias", "Logit biases are not supported by this server."),
        ({"modalities": ["text", "audio"]}, "modalities", "Output other than text is not supported by this server."),
        ({"top_k": 5}, "top_k", "Sampling with top_k is not supported by this server."),
        ({"reasoning_effort": "low"}, "reasoning_effort", "A reasoning effort is not supported by this server."),
        ({"unheard_of": 1}, "unheard_of", "Unknown parameter: unheard_of."),
        ({"un heard": 1}, None, "Unknown parameter."),
        ({"stop": 5}, "stop", "stop must be a string or a list of strings."),
        ({"stop": ["a", 5]}, "stop", "stop must be a string or a list of strings."),
        ({"stop": list("abcde")}, "stop", "stop takes at most 4 strings."),
        ({"stop": ""}, "stop", "A stop string must not be empty."),
        ({"stop": ["a", ""]}, "stop", "A stop string must not be empty."),
        ({"max_tokens": 0}, "max_tokens", "max_tokens must be at least 1."),
        ({"max_tokens": "9"}, "max_tokens", "max_tokens must be an integer."),
        ({"max_tokens": True}, "max_tokens", "max_tokens must be an integer."),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "max_completion_tokens must be at least 1."),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "max_tokens and max_completion_tokens differ."),
        ({"temperature": -0.1}, "temperature", "temperature must be at least 0."),
        ({"temperature": 2.1}, "temperature", "temperature must be at most 2."),
        ({"temperature": "hot"}, "temperature", "temperature must be a number."),
        ({"top_p": 1.1}, "top_p", "top_p must be at most 1."),
        ({"seed": 0.5}, "seed", "seed must be an integer."),
        ({"seed": 2**63}, "seed", "seed must be below"),
        ({"stream": "yes"}, "stream", "stream must be true or false."),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream_options needs stream to be true."),
        ({"messages": []}, "messages", "messages must not be empty."),
        ({"messages": "hello"}, "messages", "messages must be a list."),
        ({"messages": ["hello"]}, "messages[0]", "A message must be an object with a role and a content."),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "messages[0].content is required."),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "messages[0].role must be 'system', "),
        ({"messages": user(None)}, "messages[0].content", "The content of a message must be a string or a list"),
        ({"messages": user([])}, "messages[0].content", "The content of a message must have at least one part."),
        ({"messages": user([{"type": "image_url"}])}, "messages[0].content[0]", "Images are not supported"),
        ({"messages": user([{"type": "input_audio"}])}, "messages[0].content[0]", "Audio is not supported"),
        ({"messages": user([{"type": "file"}])}, "messages[0].content[0]", "Files are not supported"),
        ({"messages": user([{"type": "text"}])}, "messages[0].content[0]", "A part of a message must be"),
        ({"messages": user([3])}, "messages[0].content[0]", "A part of a message must be"),
        ({"messages": [{"role": "tool", "content": "x"}, *CHAT]}, "messages[0]", "Tool calls are not supported"),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}, *CHAT]},
            "messages[0]",
            "Tool calls are not supported",
        ),
        (
            {"messages": [*CHAT, {"role": "assistant", "content": "x"}]},
            "messages",
            "The last message must be the user's",
        ),
        ({"waltz": {"mode": "off"}}, "waltz.mode", "The field waltz takes one option: details."),
        ({"waltz": True}, "waltz", "waltz must be an object."),
        ({"model": 3}, "model", "model must be a string."),
    ],
)
def test_what_the_server_cannot_do_is_told_in_a_plain_sentence_and_logged(
    fields: dict, param: str | None, sentence: str, served: str
) -> None:
    with log() as lines:
        answer = ask(served, **fields)
        line = line_of(answer, lines)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert error["message"].startswith(sentence)
    assert (line["message"], line.get("param")) == (error["message"], param)


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"content": None}, ""),
        ({}, ""),
        ({"content": None, "refusal": "No."}, "No."),
        ({"content": "Yes.", "refusal": None, "tool_calls": None, "audio": None}, "Yes."),
        ({"content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]}, "ab"),
    ],
)
def test_what_an_assistant_said_may_be_replayed_in_any_form(message: dict, content: str, upstream) -> None:
    server = upstream(always(says("text")))
    with serving(behind(server)) as url:
        assert ask(url, messages=[*CHAT, {"role": "assistant", **message}, *CHAT]).status_code == 200
    assert server.requests[0]["messages"][-2] == {"role": "assistant", "content": content}


# Usage


def test_usage_of_servers_is_passed_through(upstream) -> None:
    def counts(text: str, prompt: int, said: int):
        return always(sends(completion(text, usage={"prompt_tokens": prompt, "completion_tokens": said})))

    conversation, feedback = upstream(counts("text", 100, 10)), upstream(counts(FLAGS, 200, 7))
    with serving(behind(conversation, feedback)) as url, client(url) as api:
        usage = api.chat.completions.create(model="waltz", messages=CHAT).usage
        chunks = list(
            api.chat.completions.create(
                model="waltz", messages=CHAT, stream=True, stream_options={"include_usage": True}
            )
        )
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (400, 27, 427)
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 17  # the draft and the feedback
    assert chunks[-1].usage == usage


@pytest.mark.parametrize("counts", [{}, {"usage": None}, {"usage": {"prompt_tokens": "x"}}, {"usage": 3}])
def test_there_is_usage_though_nobody_counts(counts: dict, upstream) -> None:
    server = upstream(always(sends(completion("Three words, five tokens"[:17], **counts))))
    with serving(behind(server)) as url:
        usage = ask(url).json()["usage"]
    assert usage["completion_tokens"] == 4  # words and punctuation marks
    assert usage["prompt_tokens"] > 0


# Requests that cannot be answered


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        (None, 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("", 415),
    ],
)
def test_a_body_of_another_type_is_told_so(kind: str | None, status: int, served: str) -> None:
    body = json.dumps({"model": "waltz", "messages": CHAT})
    headers = {} if kind is None else {"content-type": kind}
    answer = httpx.post(f"{served}/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == status
    if status == 415:
        assert answer.json()["error"]["message"] == "The body must be JSON, with Content-Type: application/json."


def test_a_chat_that_does_not_fit_the_model_is_refused_and_never_cut() -> None:
    agents = lora_pair(tiny_model(), tiny_tokenizer(), max_new_tokens=6)
    with serving(Duet(agents, mode="off")) as url, client(url) as api:
        with pytest.raises(openai.BadRequestError) as error:
            api.chat.completions.create(model="waltz", messages=user("word " * 4000))
        assert api.chat.completions.create(model="waltz", messages=CHAT).choices
    assert (error.value.code, error.value.param) == ("context_length_exceeded", "messages")


@pytest.mark.parametrize(
    "body", ['{"error": {"code": "context_length_exceeded"}}', '{"message": "the maximum context length is 9"}']
)
def test_a_server_that_finds_a_chat_too_long_is_understood(body: str, upstream) -> None:
    with serving(behind(upstream(always(sends(body, status=400))))) as url:
        answer = ask(url)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_the_model_can_be_retrieved() -> None:
    with serving(pair(), model="org/pair") as url, client(url) as api:
        (listed,) = api.models.list()
        assert api.models.retrieve("org/pair") == listed
        with pytest.raises(openai.NotFoundError) as error:
            api.models.retrieve("other")
    assert error.value.code == "model_not_found"


def test_a_browser_may_call_where_its_origin_is_allowed() -> None:
    asks = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    with serving(pair(), cors_origins=["https://a.example"], api_keys=["k"]) as url:
        allowed = httpx.options(f"{url}/v1/chat/completions", headers=asks)
        other = httpx.options(f"{url}/v1/chat/completions", headers=asks | {"Origin": "https://b.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-origin" not in other.headers
    with serving(pair()) as url:
        assert httpx.options(f"{url}/v1/chat/completions", headers=asks).status_code == 405


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/v1/embeddings", "/api/chat"])
def test_a_path_of_other_servers_is_named_in_answer_and_log(path: str, served: str) -> None:
    with log() as lines:
        answer = httpx.post(f"{served}{path}", json={})
        line = line_of(answer, lines)
    assert answer.status_code == 404
    assert path in answer.json()["error"]["message"]
    assert (line["path"], line["error"]) == (path, "not_found")


def test_another_model_is_not_found() -> None:
    with serving(pair()) as url, client(url) as api, pytest.raises(openai.NotFoundError) as error:
        api.chat.completions.create(model="other", messages=CHAT)
    assert error.value.code == "model_not_found"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"null", b'{"model": NaN}', b"[" * 100_000, b"1" * 10_000])
def test_what_is_no_request_is_refused(body: bytes, served: str) -> None:
    answer = httpx.post(f"{served}/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert message in {"The body is not valid JSON.", "The body must be a JSON object.", "model must be a string."}


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
        wait_for_metric(url, "waltz_requests_in_flight", 2)
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
    ("trouble", "status"),
    [(hangs, 504), (drops, 503), (fails(503), 503), (fails(429), 503), (fails(500), 502), (says(""), 200)],
)
def test_trouble_of_the_conversation_agent_has_a_status_of_its_own(trouble, status: int, upstream) -> None:
    duet = behind(upstream(always(trouble)), timeout=0.2 if trouble is hangs else 60.0)
    with serving(duet) as url:
        answer = ask(url)
        streamed = ask(url, stream=True)
    assert answer.status_code == streamed.status_code == status
    assert (answer.headers.get("retry-after") == "1") == (status == 503)
    if status != 200:
        assert answer.json()["error"]["message"].startswith(("The conversation agent", "The server is overloaded"))


@pytest.mark.parametrize("policy", ["fail_open", "fail_closed"])
@pytest.mark.parametrize(
    ("trouble", "kind"),
    [(hangs, "timeout"), (drops, "unavailable"), (fails(500), "error"), (says("I like it."), "malformed")],
)
def test_trouble_of_the_feedback_agent_costs_what_the_policy_says(trouble, kind: str, policy: str, upstream) -> None:
    limit = 0.2 if trouble is hangs else 60.0
    duet = behind(upstream(always(says("draft"))), upstream(always(trouble)), on_failure=policy, feedback_timeout=limit)
    with log() as lines, serving(duet) as url:
        whole, streamed = ask(url), ask(url, stream=True)
        answer = ask(url, waltz={"details": True}).json()
        counted = metric(url, f'waltz_failures_total{{agent="feedback_0",kind="{kind}"}}')
        refused = metric(url, "waltz_refused_total")
        unreviewed = metric(url, 'waltz_answers_total{review="unreviewed"}')
    (choice,) = answer["choices"]
    if policy == "fail_open":
        assert (choice["message"]["content"], choice["finish_reason"]) == ("draft", "stop")
    else:
        assert (choice["message"]["content"], choice["finish_reason"]) == (duet.refusal, "content_filter")
    assert answer["waltz"]["failure"] == f"feedback_0: {kind}"
    assert answer["waltz"]["refused"] == (policy == "fail_closed")
    assert not answer["waltz"]["reviewed"]
    assert counted == 3
    assert refused == 3 * (policy == "fail_closed")
    assert unreviewed == 3 * (policy == "fail_open")
    for each in (whole, streamed):  # marked whether the client asks for details or not
        assert each.headers["x-waltz-review"] == ("refused" if policy == "fail_closed" else "unreviewed")
        assert ('"reviewed":false' in each.text) == (policy == "fail_open")
    levels = [lines.get(timeout=20)["level"] for _ in (whole, streamed)]
    assert levels == ["warning", "warning"]


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
        server.wait_for(lambda: server.left == 1)
        wait_for_metric(url, "waltz_requests_in_flight", 0)
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
                'waltz_answers_total{review="reviewed"}',
                'waltz_answers_total{review="unreviewed"}',
                "waltz_critiques_total",
                "waltz_triggered_total",
                'waltz_phase_seconds_count{phase="draft"}',
                'waltz_phase_seconds_count{phase="revision"}',
                'waltz_phase_seconds_bucket{le="+Inf",phase="total"}',
                "waltz_requests_in_flight",
            )
        }
    assert list(counted.values()) == [3, 1, 3, 0, 3, 3, 3, 3, 3, 0]


@pytest.mark.parametrize("log_text", [False, True])
def test_the_log_has_a_line_of_json_for_each_request_and_no_text_unless_told_to(log_text: bool) -> None:
    duet = pair(critique(REFUSING, ADVICE).completion.text)
    with log() as logged, serving(duet, log_text=log_text, api_keys=["KEY"]) as url:
        with client(url, "KEY") as api:
            api.chat.completions.create(model="waltz", messages=CHAT)
        httpx.get(f"{url}/v1/models?SECRET")
        httpx.get(f"{url}/SECRET")
    answered, refused, lost = (logged.get(timeout=20) for _ in range(3))
    lines = [json.dumps(line) for line in (answered, refused, lost)]
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


def test_each_answer_carries_the_id_that_is_in_the_log(served: str) -> None:
    with log() as lines:
        answer = ask(served)
        assert line_of(answer, lines)["status"] == 200


# The command


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "a server for each role"),
        ({"servers": Servers(conversation_url="http://127.0.0.1:9/v1")}, "a server for each role"),
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
        with closing(Serve(agents, servers=Servers(max_new_tokens=4)).duet()) as duet:
            replies = duet.respond_batch([CHAT] * 2)
        assert all(reply.game.critiques for reply in replies)


def test_a_taken_port_is_told_before_anything_is_loaded() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UsageError, match="Cannot listen on 127.0.0.1, port [0-9]+"),
    ):
        Serve("no/such-model", port=taken.getsockname()[1]).run()
    with pytest.raises(UsageError, match="Cannot listen"):
        Serve("no/such-model", port=70_000).run()


@pytest.mark.parametrize("text", ["", "[]", "{", "max_tokens=3"])
def test_server_parameters_are_a_json_object(text: str) -> None:
    url = "http://127.0.0.1:9/v1"
    with pytest.raises(UsageError, match="must be a JSON object"):
        Serve(servers=Servers(url, feedback_url=url, server_parameters=text)).duet()


def test_the_command_passes_its_settings_on(upstream) -> None:
    conversation, feedback = upstream(always(says("draft"))), upstream(always(says("I like it.")))
    command = Serve(
        servers=Servers(
            conversation.url,
            feedback_url=feedback.url,
            server_parameters='{"max_tokens": null, "max_completion_tokens": 99}',
        ),
        queue_timeout=1.0,
    )
    with closing(command.duet()) as duet:
        reply = duet.respond(CHAT, options=SamplingOptions(max_tokens=7))
    assert (duet.on_failure, duet.queue_timeout, reply.refused) == ("fail_closed", 1.0, True)  # the safe defaults
    assert [conversation.requests[0].get(name) for name in ("max_tokens", "max_completion_tokens")] == [None, 7]
    assert [feedback.requests[0].get(name) for name in ("max_tokens", "max_completion_tokens")] == [None, 99]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, {"mode": "adaptive", "on_failure": "fail_closed", "max_rounds": 1}),
        ({"mode": "off"}, {"mode": "off", "max_rounds": 0, "warning": "No answer is reviewed."}),
        (
            {"on_failure": "fail_open"},
            {"warning": "Without usable feedback, the answer is the draft, marked as unreviewed."},
        ),
    ],
)
def test_the_first_line_of_the_log_tells_what_is_served(settings: dict, told: dict) -> None:
    command = Serve("scripted", **settings)
    with closing(command.duet()) as duet:
        about = command.about(duet)
    assert about.items() >= {"model": "waltz", "agents": "scripted", **told}.items()
    assert ("warning" in about) == ("warning" in told)


def test_whoever_serves_the_laboratory_model_is_told_that_english_is_outside_its_language(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_config(encode(preset("nano").recipe))
    with closing(pair()) as duet:
        assert "ordinary English" in str(Serve(str(tmp_path)).about(duet)["note"])
        assert "note" not in Serve("scripted").about(duet)


def test_the_command_finishes_what_is_under_way_when_it_is_told_to_stop(upstream) -> None:
    stopping = threading.Event()
    conversation, feedback = upstream(always(once(stopping, says("draft")))), upstream(always(says(PASSES)))
    run = "import sys; from waltz_env.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", run, "serve", "--port", "0"]
    command += ["--conversation-url", conversation.url, "--feedback-url", feedback.url]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            lines = iter(process.stderr.readline, "")
            first = json.loads(next(lines))
            url = first["url"]
            with ThreadPoolExecutor(4) as threads:
                under_way = [threads.submit(ask, url) for _ in range(4)]
                conversation.wait_for(lambda: len(conversation.requests) == 4)
                process.send_signal(signal.SIGTERM)
                stopping.set()
                answers = [each.result() for each in under_way]
            process.wait(30)
        finally:
            process.kill()
    assert [answer.json()["choices"][0]["message"]["content"] for answer in answers] == ["draft"] * 4
    shown = {"event": "serving", "model": "waltz", "mode": "adaptive", "on_failure": "fail_closed", "max_rounds": 1}
    assert first.items() >= shown.items()
    with pytest.raises(httpx.ConnectError):
        ask(url)
