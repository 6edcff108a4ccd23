"""Agents that never end by themselves, and a program that serves one: python -m tests.endless KIND DRAIN."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence

from tests.waiting import wait_until
from waltz_env.errors import AgentError
from waltz_env.sampling_options import SamplingOptions
from waltz_env.serving import Duet, create_app
from waltz_env.serving.http.server import listen, serve
from waltz_env.types import CONVERSATION, Completion, Observation


class Endless:
    """Generates until it is told to stop."""

    def __init__(self) -> None:
        self.calls, self.stopped = 0, 0

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        return self.act_with(observations, [SamplingOptions()] * len(observations))

    def act_with(
        self,
        observations: Sequence[Observation],
        options: Sequence[SamplingOptions],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[Completion]:
        self.calls += 1
        wait_until(should_stop)
        self.stopped += 1
        raise AgentError("Stopped.")


class Hanging:
    """Never comes back."""

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        threading.Event().wait()
        return []


if __name__ == "__main__":
    kind, drain = sys.argv[1:]
    duet = Duet({CONVERSATION: Endless() if kind == "endless" else Hanging()}, mode="off", timeout=999)
    with listen("127.0.0.1", 0) as listening:
        serve(create_app(duet), drain=float(drain), listening=listening)
