"""What the benchmarks of speed share: ways to do one job that take turns, their seconds, and this process's memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

Result = TypeVar("Result")


class Seconds(NamedTuple):
    """Seconds on the wall clock, and seconds that this process spent on a processor."""

    wall: float
    processor: float


def timed(work: Callable[[], Result]) -> tuple[Seconds, Result]:
    """Seconds that a call takes, and what it returns."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return Seconds(time.perf_counter() - wall, time.process_time() - processor), result


def seconds(work: Callable[[], object]) -> Seconds:
    """Seconds that a call takes."""
    return timed(work)[0]


def in_turn(ways: Mapping[str, Callable[[], Seconds]], *, rounds: int) -> dict[str, list[Seconds]]:
    """Seconds of each way in each round, in which all take turns, after a round that warms up.

    Every second round goes through them backwards, so that a machine that gets slower or faster favors none.
    """
    measured: dict[str, list[Seconds]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            taken = ways[name]()
            if number:
                measured[name].append(taken)
            print(f"round {number}: {name} {taken.wall:.1f} s, {taken.processor:.1f} s of processor", file=sys.stderr)
    return measured


def gibibytes(name: Literal["VmRSS", "VmHWM"]) -> float:
    """Resident memory of this process now, or its peak. (``ru_maxrss`` would include the parent's peak.)"""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 2**20
