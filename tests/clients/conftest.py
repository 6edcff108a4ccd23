"""A real ``waltz serve scripted``, and a way to run other people's tools against it: ``make test-clients``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / os.environ.get("CLIENTS_VENV", ".venv-clients")  # as the Makefile installs them
SERVE = "import sys; from waltz_env.cli import main; sys.exit(main())"  # `waltz`, but of this checkout
KEY = "the key that the server asks for"

# No tool may look for updates, report its use, or ask a hub for data.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1",
    "PROMPTFOO_DISABLE_REMOTE_GENERATION": "1",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running chat server and its log, one JSON object per line."""

    url: str
    log: Path

    def chats(self) -> list[dict[str, Any]]:
        """Log entries of all chat requests so far."""
        entries = map(json.loads, self.log.read_text("utf-8").splitlines())
        return [entry for entry in entries if entry.get("path") == "/v1/chat/completions"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log.jsonl"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "serve", "scripted", "--port", "0"],
            cwd=ROOT,
            env=os.environ | {"WALTZ_API_KEY": KEY},
            stderr=file,
        )
    try:
        wait_until(lambda: "\n" in log.read_text("utf-8") or process.poll() is not None, every=0.1, seconds=120)
        assert process.poll() is None, log.read_text("utf-8")
        yield Server(json.loads(log.read_text("utf-8").splitlines()[0])["url"] + "/v1", log)
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def chats(server: Server) -> Callable[[], list[dict[str, Any]]]:
    """Gives the log entries of the chat requests since the test began."""
    before = len(server.chats())
    return lambda: server.chats()[before:]


@pytest.fixture
def run_tool(tmp_path: Path) -> Callable[..., str]:
    """Runs a tool in an empty folder and an empty home: nothing but its defaults and ``environment`` configures it."""

    def run(program: str, *arguments: object, **environment: str) -> str:
        path = os.pathsep.join([str((TOOLS / program).parent), os.environ["PATH"]])
        result = subprocess.run(
            [TOOLS / program, *map(str, arguments)],
            cwd=tmp_path,
            env=OFFLINE | {"PATH": path, "HOME": str(tmp_path / "home")} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            timeout=300,
        )
        assert result.returncode == 0, result.stdout
        return result.stdout

    return run
