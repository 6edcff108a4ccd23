"""Where the numbers of a training run go: loggers, and the one that writes files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch.utils.tensorboard import SummaryWriter

from waltz_env.files import atomic_path
from waltz_env.records import write_games
from waltz_env.rewards import RewardWeights
from waltz_env.run_folder import RunFolder
from waltz_env.types import Trajectory


class Logger(Protocol):
    """Anything that takes the metrics and games of a training run: files, a dashboard, a database."""

    def begin(self, step: int) -> None:
        """Called before the first step. ``step`` steps count so far (0: a new run): forget whatever followed them."""
        ...

    def games(self, step: int, games: Sequence[Trajectory], *, weights: RewardWeights) -> None:
        """Called with the judged games of each step and its reward weights, before the agents learn from them."""
        ...

    def metrics(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        """Called with the metrics of each step. A value may be NaN: there was no case to count."""
        ...

    def close(self) -> None:
        """Called once, after the last step or an error."""
        ...


class RunLog:
    """The log in a run folder: ``metrics.jsonl``, TensorBoard files, and the games of every step.

    Args:
        folder: the run folder, which is made if it is missing.
    """

    def __init__(self, folder: RunFolder | Path) -> None:
        self._folder = folder if isinstance(folder, RunFolder) else RunFolder(folder)
        self._board: SummaryWriter | None = None

    def begin(self, step: int) -> None:
        """Drop the lines and files of steps after ``step``, which an interrupted run left, and open the files."""
        folder = self._folder
        kept = [line for line in folder.read_metrics() if line["step"] <= step]
        with atomic_path(folder.metrics) as path:
            path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        for path in folder.training_games.glob("step-*.jsonl"):
            if int(path.stem.removeprefix("step-")) > step:
                path.unlink()
        self._board = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    def games(self, step: int, games: Sequence[Trajectory], *, weights: RewardWeights) -> None:
        """Write the games of one step, without token ids. Rewards follow from a game and ``weights``: none are kept."""
        write_games(self._folder.games_of_step(step), games, tokens=False)

    def metrics(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        """Append one line of metrics, without those that are not finite, which JSON does not have."""
        numbers = finite(values)
        with self._folder.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "stage": stage} | numbers) + "\n")
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the TensorBoard files."""
        if self._board is not None:
            self._board.close()


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """The values that are numbers, without NaN and infinities."""
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}
