"""The two ways in which tests may deal with time: to poll for a condition, and to be slow on purpose."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from waltz_env import Completion, Observation


def wait_until(condition: Callable[[], bool], every: float = 0.01, seconds: float = 20.0) -> None:
    """Returns as soon as ``condition`` holds; fails after ``seconds``."""
    for _ in range(int(seconds / every)):
        if condition():
            return
        time.sleep(every)
    raise AssertionError(f"It did not come true within {seconds} s.")


class Slow:
    """An agent that takes ``seconds`` per batch, then answers with ``text``."""

    def __init__(self, seconds: float, text: str = "slow") -> None:
        self.seconds, self.text = seconds, text

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        time.sleep(self.seconds)
        return [Completion(self.text)] * len(observations)
