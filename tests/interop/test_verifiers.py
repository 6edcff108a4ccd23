"""The game as a verifiers environment, from verifiers' own command, against a real server; ``make test-interop``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.upstream import Answer, Json, Upstream, completion, fails, sends
from waltz_env.prompts import PromptSet

ROOT = Path(__file__).parents[2]
ADVICE = "Refuse this request."
CRITIQUE = f'{{"reasoning": "harm", "unsafe": true, "overrefuse": false, "feedback": "{ADVICE}"}}'
DRAFT, REVISION = "Sure. First, take a hammer and go on like this.", "I cannot help with that."


def says(text: str, *, finish: str = "stop") -> Answer:
    """A chat completion with the fields that verifiers insists on."""
    fields = {"id": "x", "created": 0, "model": "m", "object": "chat.completion"}
    return sends(completion(text, finish=finish, choice={"index": 0}, **fields))


def play(body: Json, number: int) -> Answer:
    """An answer in any role."""
    read = "\n".join(message["content"] for message in body["messages"])
    return says(CRITIQUE if "# Order of work" in read else REVISION if ADVICE in read else DRAFT)


def broken_revision(body: Json, number: int) -> Answer:
    return fails(400) if any(ADVICE in message["content"] for message in body["messages"]) else play(body, number)


Evaluate = Callable[..., list[Json]]


@pytest.fixture
def server() -> Iterator[Upstream]:
    upstream = Upstream(play)
    yield upstream
    upstream.stop()


@pytest.fixture
def evaluate(server: Upstream, tmp_path: Path) -> Evaluate:
    """The episodes that ``vf-eval waltz-verifiers`` leaves, in order of their tasks: it writes them as they finish."""

    def run(*words: str) -> list[Json]:
        command = [str(Path(sys.executable).with_name("vf-eval")), "waltz-verifiers", "--model", "m", "--no-push"]
        command += ["--no-rich", "--client.base-url", server.url, "--output-dir", str(tmp_path), *words]
        path = os.pathsep.join([str(ROOT / "examples"), str(ROOT)])
        subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, check=True)
        (found,) = tmp_path.rglob("traces.jsonl")
        episodes = [json.loads(line) for line in found.read_text().splitlines()]
        return sorted(episodes, key=lambda episode: episode["task"]["data"]["idx"])

    return run


def seats(episode: Json) -> list[tuple[str, Any]]:
    """Seats in order of their turns, with rewards."""
    return [(trace["agent"]["name"], trace["rewards"].get("waltz", {}).get("score")) for trace in episode["traces"]]


def test_each_turn_is_a_trace_with_its_own_reward(evaluate: Evaluate, server: Upstream) -> None:
    """The first prompts are harmful, so c_0 earns 0, c_1 earns 1, and f_0 earns .65 * 1 * 1 + .25 + .1."""
    episodes = evaluate("-n", "2", "--sampling.temperature", "0.5")
    prompts = list(PromptSet.load("builtin:test"))[:2]
    assert [episode["task"]["data"]["request"]["text"] for episode in episodes] == [prompt.text for prompt in prompts]
    for episode in episodes:
        assert seats(episode) == [("draft", 0.0), ("feedback", pytest.approx(1.0)), ("revision", 1.0)]
        _, critique, _ = episode["traces"]
        assert critique["metrics"] == {"improvement": 1.0, "label": 1.0, "format": 1.0}
        assert all(trace["agent"].get("trainable", True) for trace in episode["traces"])
    assert {(body["model"], body["temperature"]) for body in server.requests} == {("m", 0.5)}
    assert len(server.requests) == 6


def test_a_seat_with_its_own_model_is_asked_there_and_not_trained(evaluate: Evaluate, server: Upstream) -> None:
    (episode,) = evaluate("-n", "1", "--env.feedback.model", "frozen", "--env.weights", "B")
    assert [body["model"] for body in server.requests] == ["m", "frozen", "m"]
    assert [trace["agent"]["trainable"] for trace in episode["traces"]] == [True, False, True]


def test_a_model_that_fails_leaves_the_game_unscored(evaluate: Evaluate, server: Upstream) -> None:
    server.script = broken_revision
    (episode,) = evaluate("-n", "1")
    assert not episode["ok"]
    assert seats(episode) == [("draft", None), ("feedback", None), ("revision", None)]
    assert "revision" in str(episode["errors"]) or episode["traces"][-1]["errors"]


def test_an_empty_answer_is_data(evaluate: Evaluate, server: Upstream) -> None:
    server.script = lambda body, number: says("", finish="length")
    (episode,) = evaluate("-n", "1")
    assert [name for name, _ in seats(episode)] == ["draft", "feedback"]
    assert all(reward is not None for _, reward in seats(episode))
