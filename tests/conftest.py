"""Settings and fixtures of the whole suite."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from tests.upstream import Script, Upstream

# No deadline: how long an example takes says more about the machine than about the code.
settings.register_profile("waltz", deadline=None)
settings.load_profile("waltz")


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
