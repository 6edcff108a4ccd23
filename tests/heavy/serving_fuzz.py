"""The chat server, fuzzed from its own OpenAPI schema over a real uvicorn: every answer is one that the schema names.

Not part of the default suite: ``make test-serving``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chat_server import running
from tests.games import RandomSpeaker
from waltz_env import CONVERSATION, FEEDBACK
from waltz_env.rules import Rules
from waltz_env.serving import Duet, create_app

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
]
EXAMPLES = 300


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_answer_is_one_that_the_schema_names(mode: str, tmp_path: Path) -> None:
    app = create_app(Duet({CONVERSATION: RandomSpeaker(0), FEEDBACK: RandomSpeaker(1)}, rules=Rules(max_rounds=2)))
    description = app.openapi()
    # The one model that there is in place of any name, so that chats get past its check.
    description["components"]["schemas"]["ChatRequest"]["properties"]["model"] = {"type": "string", "const": "waltz"}
    (tmp_path / "openapi.json").write_text(json.dumps(description))
    with running(app) as url:
        command = [sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", url, "--mode", mode]
        command += ["--checks", ",".join(CHECKS), "--max-examples", str(EXAMPLES), "--seed", "1", "--no-color"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
