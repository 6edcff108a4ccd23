"""Settings and fixtures of the whole suite."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.upstream import Script, Upstream

# No deadline: how long an example takes says more about the machine than about the code.
settings.register_profile("waltz", deadline=None)
settings.load_profile("waltz")


# Trackers read where their data is when they are imported, which other libraries do long before a test asks for them.
DASHBOARDS = Path(tempfile.mkdtemp(prefix="waltz-dashboards-"))
atexit.register(shutil.rmtree, DASHBOARDS, ignore_errors=True)
os.environ |= {
    "TRACKIO_DIR": str(DASHBOARDS / "trackio"),
    "WANDB_DIR": str(DASHBOARDS),
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
}


@pytest.fixture
def dashboards() -> Path:
    """The folder with the data of both trackers, for all tests of a process."""
    return DASHBOARDS


@pytest.fixture
def upstream() -> Iterator[Callable[[Script], Upstream]]:
    """Starts servers on loopback that answer by a script; they stop with the test."""
    servers: list[Upstream] = []

    def start(script: Script) -> Upstream:
        servers.append(Upstream(script))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
