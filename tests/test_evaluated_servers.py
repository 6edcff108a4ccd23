"""Chat servers as players of an evaluation: a model, a pair behind one address, and a pair on two servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chat_server import serving
from tests.games import BOMB, PROCESS, SAFE, UNSAFE, Speaker
from tests.upstream import Json, Script, Upstream, always, fails, says
from waltz_env import CONVERSATION, FEEDBACK, PromptSet, read_games
from waltz_env.cli import main
from waltz_env.experiments.servers import Servers
from waltz_env.feedback import format_feedback
from waltz_env.serving import Duet

JUDGE = "tests.games:WordJudge"
COMPLETE = "--conversation-url http://127.0.0.1:9/v1 --prompts builtin:test --judge rules"
Start = Callable[[Script], Upstream]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """One harmful and one benign prompt."""
    path = tmp_path / "two.jsonl"
    PromptSet([BOMB, PROCESS]).save(path)
    return path


def evaluate(prompts: Path, out: Path, *words: object) -> int:
    return main(["evaluate", "--prompts", str(prompts), "--judge", JUDGE, "--out", str(out), *map(str, words)])


def systems(out: Path) -> dict[str, Any]:
    systems: dict[str, Any] = json.loads((out / "results.json").read_text())["sets"]["two"]["systems"]
    return systems


def conversation(body: Json, number: int) -> Any:
    """Harms and overrefuses at first; with advice it answers well."""
    asked = json.dumps(body["messages"])
    if "Better:" in asked:
        return says("Fine.")
    return says("UNSAFE" if "bomb" in asked else "OVERREFUSE")


def feedback(body: Json, number: int) -> Any:
    """Is right about the draft on the bomb and sees nothing in the other."""
    labels = UNSAFE if "bomb" in json.dumps(body["messages"]) else SAFE
    return says(format_feedback(labels, "Better: say that it is fine."))


def test_two_servers_play_the_game_and_get_the_table_of_a_run(
    prompts: Path, tmp_path: Path, upstream: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, out = upstream(conversation), upstream(feedback), tmp_path / "out"
    models = ("--conversation-model", "mine", "--feedback-model", "critic", "--temperature", "0")
    assert evaluate(prompts, out, "--conversation-url", one.url, "--feedback-url", two.url, *models) == 0
    found = systems(out)
    assert list(found) == ["served", "served_pair"]
    rates = {name: (found[name]["asr"]["value"], found[name]["orr"]["value"]) for name in found}
    assert rates == {"served": (1.0, 1.0), "served_pair": (0.0, 1.0)}  # the bomb was criticized, the process was not
    assert found["served_pair"]["label_accuracy"]["value"] == 0.5
    games = {game.prompt.id: game for game in read_games(out / "games" / "held-out" / "two-served_pair.jsonl")}
    assert [response.text for response in games["bomb"].responses] == ["UNSAFE", "Fine."]
    assert {(each["model"], each["temperature"]) for each in one.requests} == {("mine", 0)}
    assert {each["model"] for each in two.requests} == {"critic"}
    printed = capsys.readouterr().out
    assert "served_pair" in printed
    assert "minus served_pair" in printed
    assert main(["report", str(out)]) == 0


def test_a_pair_behind_one_address_is_a_model_that_answers(prompts: Path, tmp_path: Path) -> None:
    pair = {CONVERSATION: Speaker("UNSAFE", "Fine."), FEEDBACK: Speaker(format_feedback(UNSAFE, "Do not."))}
    with serving(Duet(pair), model="waltz") as url:
        arguments = ("--conversation-url", f"{url}/v1", "--conversation-model", "waltz")
        assert evaluate(prompts, tmp_path / "out", *arguments) == 0
    found = systems(tmp_path / "out")
    assert list(found) == ["served"]
    assert (found["served"]["asr"]["value"], found["served"]["orr"]["value"]) == (0.0, 0.0)


def test_a_safeguard_needs_no_run_if_it_is_named(prompts: Path, tmp_path: Path, upstream: Start) -> None:
    url, out = upstream(always(says("UNSAFE"))).url, tmp_path / "out"
    assert evaluate(prompts, out, "--conversation-url", url, "--safeguard", JUDGE) == 0
    found = systems(out)
    assert list(found) == ["served", "served_safeguard"]
    assert [found[name]["asr"]["value"] for name in found] == [1.0, 0.0]


def test_servers_stand_beside_a_run(tmp_path: Path, upstream: Start, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    assert main(["train", "--preset", "tests.tiny_preset:PRESET", "--stage-1.steps", "0", "--out", str(run)]) == 0
    server = upstream(always(says("UNSAFE")))
    assert main(["evaluate", str(run), "--out", str(out)]) == 0
    added = ["evaluate", str(run), "--out", str(out), "--conversation-url", server.url]
    assert main(added) == 0
    content = json.loads((out / "results.json").read_text())
    assert list(content["sets"]["mine"]["systems"])[-3:] == ["trained_pair", "served", "served_safeguard"]
    assert content["sets"]["mine"]["comparisons"]["served"]["against"] == "trained_pair"
    asked = len(server.requests)
    assert main(added) == 0  # nothing but the first question is asked again
    assert len(server.requests) == asked + 1
    assert main([*added, "--temperature", "0.5"]) == 2
    assert "another setting of servers" in capsys.readouterr().err


def test_results_name_the_servers_without_passwords(tmp_path: Path) -> None:
    servers = Servers("http://me:secret@127.0.0.1:9/v1?key=secret", conversation_model="mine")
    assert servers.about() == {
        CONVERSATION: {
            "model": "mine",
            "server": "http://127.0.0.1:9/v1",
            "temperature": 1.0,
            "max_new_tokens": 512,
            "parameters": {},
        }
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "at least one run, or a chat server"),
        ("--feedback-url http://127.0.0.1:9/v1", "--feedback-url needs --conversation-url"),
        ("--conversation-url http://127.0.0.1:9/v1", "name the prompts (--prompts) and the judge (--judge)"),
        (f"{COMPLETE} --latency 3", "measure a run"),
        (f"{COMPLETE} --server-parameters []", "must be a JSON object"),
    ],
)
def test_what_cannot_be_evaluated_is_told_before_any_work(
    words: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *words.split(), "--out", str(tmp_path / "out")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_server_that_fails_is_told_before_anything_is_played(
    prompts: Path, tmp_path: Path, upstream: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, out = upstream(always(says("UNSAFE"))), upstream(always(fails(500))), tmp_path / "out"
    assert evaluate(prompts, out, "--conversation-url", good.url, "--feedback-url", bad.url) == 2
    assert "The server of 'feedback' at" in capsys.readouterr().err
    assert len(good.requests) == 1
    assert not (out / "results.json").exists()
