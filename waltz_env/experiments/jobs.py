"""Jobs of an experiment: each goes after those that it needs, and has a log; an executor says where it runs."""

from __future__ import annotations

import contextlib
import os
import platform
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from pathlib import Path

import torch

from waltz_env.branches import games_at_equal_tokens
from waltz_env.experiments.over_seeds import UNTRAINED, check_settings, play_untrained, run, run_folder
from waltz_env.experiments.results import read_sets
from waltz_env.experiments.run import is_finished
from waltz_env.presets import Recipe
from waltz_env.records import training_games
from waltz_env.run_folder import RunFolder
from waltz_env.stop_signal import stop_signal


@dataclass(frozen=True, slots=True)
class Job:
    """One run of one seed, or, under the name ``UNTRAINED``, what the runs of a seed share.

    Attributes:
        name: name of the run's folder.
        recipe: settings of the run.
        out: folder of the experiment.
        begin_with: name of a run of the same seed, whose weights take the place of this run's first stage.
        base: name of the base model that a preset builds on the spot, where it is not the one of most runs of a seed.
        costs_as: the run whose sampled tokens decide how many games this one plays per step.
    """

    name: str
    recipe: Recipe
    out: Path
    begin_with: str | None = None
    base: str | None = None
    costs_as: Job | None = None

    def needs(self, other: Job) -> bool:
        """Whether this job needs what the other one makes."""
        needed = {UNTRAINED, self.begin_with, self.costs_as and self.costs_as.name} - {self.name}
        return other.recipe.seed == self.recipe.seed and other.name in needed

    @property
    def folder(self) -> RunFolder:
        return run_folder(self.out, self.recipe.seed, self.name)

    @property
    def log(self) -> Path:
        return self.folder.path.with_name(f"{self.name}.log")

    @property
    def steps(self) -> int:
        """Number of training steps."""
        stages = self.recipe.stages[0 if self.begin_with is None else 1 :]
        return 0 if self.name == UNTRAINED else sum(stage.steps for stage in stages)

    def steps_done(self) -> int:
        """Number of training steps that have been done so far, by any process."""
        try:
            return self.folder.metrics.read_bytes().count(b"\n")
        except OSError:  # it has not begun
            return 0

    def finished(self) -> bool:
        """Whether nothing is left to do."""
        sets = read_sets(self.folder)
        return bool(sets) if self.name == UNTRAINED else is_finished(self.recipe, sets)

    def check(self) -> None:
        """Check, before anything runs, that the job could run.

        Raises:
            UsageError: the recipe cannot work, or the folder has another run.
        """
        self.recipe.check()
        if self.costs_as is None or self.costs_as.finished():
            check_settings(self.folder, self.settings())

    def settings(self) -> Recipe:
        """The recipe with its number of games; ``costs_as`` must be finished."""
        if self.costs_as is None:
            return self.recipe
        other, loop = self.costs_as.recipe.loop, self.recipe.loop
        games = games_at_equal_tokens(
            chain.from_iterable(training_games(self.costs_as.folder)),
            count=other.games,
            played=other.branches,
            branches=loop.branches,
        )
        return replace(self.recipe, loop=replace(loop, games=games))

    def note(self, error: BaseException) -> None:
        """Write into the log why the job failed."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            traceback.print_exception(error, file=log)

    def __call__(self, threads: int) -> bool:
        """Run the job on so many CPU threads, with what it prints in its log, and return whether it is done."""
        torch.set_num_threads(threads)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with (
            self.log.open("a", encoding="utf-8", buffering=1) as log,  # whole lines survive a process that is killed
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} on {platform.node()}, process {os.getpid()}\n")
            if self.name == UNTRAINED:
                play_untrained(self.recipe, self.out)
                return True
            with stop_signal() as should_stop:
                results = run(
                    self.name,
                    self.settings(),
                    self.out,
                    begin_with=self.begin_with,
                    base=self.base,
                    should_stop=should_stop,
                )
                return results is not None


Execute = Callable[[Sequence[Job], Callable[[], object]], Iterator[tuple[Job, bool]]]
"""Runs jobs and yields each as it ends, with whether it is done; meanwhile calls the function about once a second.

The reason of a failure is in the job's log by then.
"""


def run_jobs(
    jobs: Sequence[Job], *, execute: Execute, progress: Callable[[Sequence[Job]], object] = lambda done: None
) -> list[Job]:
    """Do what has not been done yet. A job that fails leaves the others alone, except those that need what it makes.

    Args:
        jobs: the jobs, and those that they need.
        execute: runs jobs, see ``executors``.
        progress: called about once a second with the jobs that are done or have failed.

    Returns:
        The jobs that failed; the reason is in their logs. Jobs that need them have not been begun.
    """
    ended = [job for job in jobs if job.finished()]
    left = [job for job in jobs if job not in ended]
    failed: list[Job] = []
    while left:
        ready = [job for job in left if not any(map(job.needs, left))]
        for job, done in execute(ready, lambda: progress(ended)):
            ended.append(job)
            if not done:
                failed.append(job)
            progress(ended)
        left = [job for job in left if job not in ready and not any(map(job.needs, failed))]
    return failed
