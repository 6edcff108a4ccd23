"""Where a run leaves its numbers: ``metrics.jsonl``, TensorBoard files, games of every step."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from waltz_env.files import atomic_path
from waltz_env.records import write_games
from waltz_env.types import Trajectory

METRICS = "metrics.jsonl"


class RunLog:
    """The log of one run. Lines and files of steps after ``first_step``, left by an interrupted run, are dropped.

    Args:
        folder: the run's folder, made if missing.
        first_step: last step that counts so far; 0 starts anew.
        enabled: False in all processes but the main one: nothing is written.
    """

    def __init__(self, folder: Path, *, first_step: int = 0, enabled: bool = True) -> None:
        self._folder = folder
        self._first_step = first_step
        self._enabled = enabled

    def __enter__(self) -> RunLog:
        if self._enabled:
            self._folder.mkdir(parents=True, exist_ok=True)
            kept = [line for line in read_metrics(self._folder) if int(line["step"]) <= self._first_step]
            with atomic_path(self._folder / METRICS) as path:
                path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            for path in self._folder.glob("games-[0-9][0-9][0-9][0-9][0-9].jsonl"):
                if int(path.stem.removeprefix("games-")) > self._first_step:
                    path.unlink()
            self._file = (self._folder / METRICS).open("a", encoding="utf-8")
            self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=self._first_step + 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._enabled:
            self._file.close()
            self._board.close()

    def metrics(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        """One line of metrics; what is not a number (no case to count) is left out."""
        if self._enabled:
            numbers = {name: float(value) for name, value in values.items() if not math.isnan(value)}
            self._file.write(json.dumps({"step": step, "stage": stage} | numbers) + "\n")
            self._file.flush()
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)

    def games(self, step: int, games: Sequence[Trajectory]) -> None:
        """The games of one step, without token ids."""
        if self._enabled:
            write_games(self._folder / f"games-{step:05d}.jsonl", games, tokens=False)


def read_metrics(folder: Path) -> list[dict[str, float | str]]:
    """The lines of a run's ``metrics.jsonl``; none if it has not begun. A line cut short by a crash ends the list."""
    path = folder / METRICS
    lines: list[dict[str, float | str]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines
