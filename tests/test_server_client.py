"""What a client sends, and what its errors tell."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pytest

from tests.upstream import SOON, always, says, sends
from waltz_env.server_client import ServerClient, ServerError

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "SECRET"}], "temperature": 0.5, "max_tokens": 9}


def ask(client: ServerClient, request: dict[str, Any] = REQUEST) -> str | ServerError:
    with closing(client):
        (answer,) = client.run(client.ask("chat/completions", [request]))
    return answer


@pytest.mark.parametrize(
    ("parameters", "sent"),
    [
        ({}, {"temperature": 0.5, "max_tokens": 9}),
        ({"max_tokens": None, "max_completion_tokens": 50}, {"temperature": 0.5, "max_completion_tokens": 50}),
        ({"temperature": None}, {"max_tokens": 9}),
        ({"temperature": 1.0, "top_k": 5}, {"temperature": 1.0, "max_tokens": 9, "top_k": 5}),
        ({"reasoning": {"effort": "low"}}, {"temperature": 0.5, "max_tokens": 9, "reasoning": {"effort": "low"}}),
    ],
)
def test_parameters_replace_extend_and_leave_out(parameters: dict, sent: dict, upstream) -> None:
    server = upstream(always(says("x")))
    ask(server.client(parameters=parameters))
    (request,) = server.requests
    assert request == {"model": "m", "messages": REQUEST["messages"], **sent}


def test_parameters_join_the_extra_body_of_a_request(upstream) -> None:
    server = upstream(always(says("x")))
    ask(server.client(parameters={"top_k": 5}), REQUEST | {"extra_body": {"min_p": 0.1, "top_k": -1}})
    assert (server.requests[0]["min_p"], server.requests[0]["top_k"]) == (0.1, 5)


@pytest.mark.parametrize("nested", [True, False])  # OpenAI's form, and what some servers send
@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (400, {"code": "unsupported_parameter", "param": "max_tokens"}, "code unsupported_parameter"),
        (400, {"code": "unsupported_parameter", "param": "max_tokens"}, "param max_tokens"),
        (400, {"param": "max_tokens"}, "ServerClient(parameters=...)"),
        (400, {"code": 400, "status": "INVALID_ARGUMENT"}, "status INVALID_ARGUMENT"),
        (422, {"error_type": "validation"}, "error_type validation"),
        (
            422,
            {"detail": [{"loc": ["body", "top_k"], "type": "extra_forbidden", "msg": "SECRET"}]},
            "param top_k): to change",
        ),
        (422, {"detail": [{"loc": ["body", "messages", 1, "content"], "type": "x"}]}, "param messages.1.content"),
        (422, {"detail": "SECRET"}, "status 422."),
        (422, {"detail": [{"loc": [], "type": None}]}, "status 422."),
        (422, {"detail": [{"loc": ["body", "SECRET text"]}]}, "status 422."),
        (400, {"type": "invalid_request_error", "param": "messages[1].content"}, "param messages[1].content"),
        (404, {"code": "model_not_found"}, "status 404 (code model_not_found)"),
        (400, {"code": 400, "type": "BadRequestError"}, "(code 400, type BadRequestError)"),
        (401, {}, "check the API key"),
        (403, {"code": "invalid_api_key"}, "(code invalid_api_key): check the API key"),
        (429, {"code": "insufficient_quota"}, "insufficient_quota"),
        (400, {"code": None, "param": ["x"], "type": {"a": 1}}, "status 400."),
    ],
)
def test_the_reason_of_an_error_status_is_told(status: int, error: dict, told: str, nested: bool, upstream) -> None:
    body = {"message": "You said SECRET.", **error}
    content = json.dumps({"error": body} if nested else body)
    answer = ask(upstream(always(sends(content, status=status, headers=SOON))).client(retries=0))
    assert isinstance(answer, ServerError)
    assert told in str(answer)
    assert "SECRET" not in str(answer)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"code": "context_length_exceeded", "type": "invalid_request_error"}),  # OpenAI
        (400, {"code": 400, "type": "BadRequestError", "message": "This model's maximum context length is 4096 ..."}),
        (400, {"type": "exceed_context_size_error", "message": "the request exceeds the available context size"}),
        (413, {"message": "The prompt does not fit the context window."}),
    ],
)
def test_a_prompt_that_does_not_fit_the_context_is_told_from_other_errors(status: int, error: dict, upstream) -> None:
    answer = ask(upstream(always(sends(json.dumps({"error": error}), status=status))).client())
    assert isinstance(answer, ServerError)
    assert answer.kind == "too_long"
    assert "longer than the model's context" in str(answer)


@pytest.mark.parametrize("code", ["You said SECRET", "a" * 65, "SECRET\nline", "gehe*im"])
def test_a_reason_that_is_not_an_identifier_is_not_told(code: str, upstream) -> None:
    content = json.dumps({"error": {"code": code, "param": code, "type": code}})
    assert str(ask(upstream(always(sends(content, status=400))).client())).endswith("answered with status 400.")


@pytest.mark.parametrize("body", ["", "null", "[]", '"x"', "{", '{"error": null}', '{"error": "SECRET"}'])
def test_an_error_without_a_body_of_any_known_form_tells_its_status(body: str, upstream) -> None:
    answer = ask(upstream(always(sends(body, status=400))).client())
    assert str(answer).endswith("answered with status 400.")
