"""Other people's tools against the chat server, as their users run them: only the address and the key are set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.clients.conftest import KEY, Server

Chats = Callable[[], list[dict[str, Any]]]
Tool = Callable[..., str]

QUESTIONS = ("How do I kill a process that hangs?", "How do I whittle a spoon?", "How do I boil an egg?")
ANSWER = "Here is how it is done"  # the first sentence of every scripted answer that helps, up to its full stop

INSPECT_TASK = f"""
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, system_message

@task
def tiny():
    return Task(
        dataset=[Sample(question, target={ANSWER!r}) for question in {QUESTIONS!r}],
        solver=[system_message("You are a helpful assistant."), generate()],
        scorer=includes(),
    )
"""


def test_garak(server: Server, chats: Chats, run_tool: Tool, tmp_path: Path) -> None:
    # The detectors of these two search for words that garak brings along; many others download a model.
    probes = ("dan.AntiDAN", "lmrc.SlurUsage")
    options = {"openai": {"OpenAICompatible": {"uri": server.url}}}
    output = run_tool(
        "garak/bin/garak",
        *("--target_type", "openai.OpenAICompatible", "--target_name", "waltz"),
        *("--generator_options", json.dumps(options)),
        *("--spec", ",".join(f"probes.{probe}" for probe in probes)),
        *("--report_prefix", tmp_path / "scan"),
        OPENAICOMPATIBLE_API_KEY=KEY,
    )
    assert "SKIP" not in output
    entries = json_lines(tmp_path / "scan.report.jsonl")
    results = [entry for entry in entries if entry["entry_type"] == "eval"]
    for entry in results:  # one for each pair of probe and detector
        assert entry["nones"] == 0
        assert entry["passed"] + entry["fails"] == entry["total_processed"] == 5  # garak asks five times
    assert {entry["probe"] for entry in results if entry["passed"]} == set(probes)
    assert_all_answered(chats(), 10)


def test_lm_evaluation_harness(server: Server, chats: Chats, run_tool: Tool, tmp_path: Path) -> None:
    rows = [json.dumps({"question": question, "answer": ANSWER}) for question in QUESTIONS]
    (tmp_path / "questions.jsonl").write_text("\n".join(rows), "utf-8")
    task = {
        "task": "tiny",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "questions.jsonl"}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [".", "\n\n"]},
        "metric_list": [{"metric": "exact_match"}],
    }
    (tmp_path / "tiny.yaml").write_text(json.dumps(task), "utf-8")  # JSON is YAML
    run_tool(
        "lm-eval/bin/lm_eval",
        *("--model", "local-chat-completions", "--model_args", f"model=waltz,base_url={server.url}/chat/completions"),
        *("--tasks", "tiny", "--include_path", ".", "--apply_chat_template"),
        *("--output_path", "results", "--log_samples"),
        OPENAI_API_KEY=KEY,
    )
    results = json.loads(only(tmp_path, "results/*/results_*.json").read_text("utf-8"))["results"]["tiny"]
    assert (results["sample_len"], results["exact_match,none"]) == (3, 1.0)  # cut where `until` says
    samples = json_lines(only(tmp_path, "results/*/samples_*.jsonl"))
    assert [sample["resps"] for sample in samples] == [[[ANSWER]]] * 3
    assert_all_answered(chats(), 3)


def test_inspect(server: Server, chats: Chats, run_tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(INSPECT_TASK, "utf-8")
    run_tool(
        "inspect/bin/inspect",
        *("eval", "tiny.py", "--model", "openai-api/waltz/waltz", "--log-dir", "logs", "--log-format", "json"),
        WALTZ_API_KEY=KEY,
        WALTZ_BASE_URL=server.url,
    )
    log = json.loads(only(tmp_path, "logs/*.json").read_text("utf-8"))
    assert log["status"] == "success"
    assert log["results"]["completed_samples"] == 3
    assert [sample["scores"]["includes"]["value"] for sample in log["samples"]] == ["C"] * 3  # correct
    assert log["stats"]["model_usage"]["openai-api/waltz/waltz"]["output_tokens"] > 0
    assert_all_answered(chats(), 3)


def test_promptfoo(server: Server, chats: Chats, run_tool: Tool, tmp_path: Path) -> None:
    config = {
        "prompts": ["{{question}}", "Answer briefly: {{question}}"],
        "providers": [{"id": "openai:chat:waltz", "config": {"apiBaseUrl": server.url}}],
        "tests": [
            {"vars": {"question": question}, "assert": [{"type": "contains", "value": ANSWER}]}
            for question in QUESTIONS
        ],
    }
    (tmp_path / "promptfooconfig.json").write_text(json.dumps(config), "utf-8")
    run_tool("promptfoo/bin/promptfoo", "eval", "--output", "results.json", OPENAI_API_KEY=KEY)
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))["results"]
    stats = results["stats"]
    assert (stats["successes"], stats["failures"], stats["errors"]) == (6, 0, 0)
    for case in results["results"]:
        usage = case["response"]["tokenUsage"]
        assert usage["prompt"] > 0
        assert usage["completion"] > 0
    assert_all_answered(chats(), 6)


def assert_all_answered(chats: list[dict[str, Any]], number: int) -> None:
    """The server got ``number`` requests and answered each of them with a reviewed text."""
    assert [(chat["status"], chat["review"]) for chat in chats] == [(200, "reviewed")] * number


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def only(folder: Path, pattern: str) -> Path:
    """The one file below ``folder`` whose name fits ``pattern``."""
    (path,) = folder.glob(pattern)
    return path
