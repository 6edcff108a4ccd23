"""Algorithms over seeds on one preset, several runs at a time, each in a process of its own."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from waltz_env.experiments.over_seeds import UNTRAINED, check_settings, play_untrained, run, run_folder
from waltz_env.experiments.results import read_sets
from waltz_env.presets import Recipe, with_algorithm
from waltz_env.run_folder import RunFolder
from waltz_env.stop_signal import stop_signal


@dataclass(frozen=True, slots=True)
class Job:
    """One algorithm on one seed, or without an algorithm what the runs of a seed share.

    Attributes:
        algorithm: name or dotted path of the algorithm.
        recipe: settings of the run.
        out: folder of the benchmark.
    """

    algorithm: str | None
    recipe: Recipe
    out: Path

    @property
    def name(self) -> str:
        """Name of the run's folder. A dotted path has characters that a folder's name should not have."""
        return run_name(self.algorithm) if self.algorithm else UNTRAINED

    @property
    def folder(self) -> RunFolder:
        return run_folder(self.out, self.recipe.seed, self.name)

    @property
    def log(self) -> Path:
        return self.folder.path.with_name(f"{self.name}.log")

    def check(self) -> None:
        """Check, before anything runs, that the job could run.

        Raises:
            UsageError: the recipe cannot work, or the folder has another run.
        """
        self.recipe.check()
        check_settings(self.folder, self.recipe)

    def __call__(self, threads: int) -> bool:
        """Run the job, with what it prints in its log, and return whether it is done."""
        torch.set_num_threads(threads)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with (
            self.log.open("a", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            if self.algorithm is None:
                play_untrained(self.recipe, self.out)
                return True
            with stop_signal() as should_stop:
                return run(self.name, self.recipe, self.out, should_stop=should_stop) is not None


def run_name(algorithm: str) -> str:
    """The name of the folder of an algorithm's runs."""
    return algorithm.replace(":", ".")


def jobs_of(recipe: Recipe, algorithms: Sequence[str], *, seeds: int, out: Path) -> tuple[list[Job], list[Job]]:
    """The jobs of a benchmark: what each seed's runs share, then the runs.

    Raises:
        UsageError: an algorithm is unknown, or a job could not run. Nothing has been done then.
    """
    recipes = [replace(recipe, seed=seed) for seed in range(seeds)]
    shared = [Job(None, each, out) for each in recipes]
    runs = [Job(name, with_algorithm(each, name), out) for each in recipes for name in algorithms]
    for job in runs:
        job.check()
    return shared, runs


def run_jobs(
    shared: Sequence[Job],
    runs: Sequence[Job],
    *,
    workers: int,
    threads: int,
    done: Callable[[Job], object] = lambda job: None,
) -> list[Job]:
    """Do what has not been done yet. A job that fails leaves the others alone, except those that need what it makes.

    Args:
        shared: jobs that make what the runs of a seed share; they go first.
        runs: the runs.
        workers: number of jobs at a time.
        threads: number of CPU threads of each.
        done: called after each job, whether or not it failed.

    Returns:
        The jobs that failed; the reason is in their logs.
    """
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            failed = _work(shared, pool, threads, done)
            lost = {job.recipe.seed for job in failed}
            return failed + _work([job for job in runs if job.recipe.seed not in lost], pool, threads, done)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)  # jobs that are running end their step and can be continued
            raise


def _work(jobs: Sequence[Job], pool: Executor, threads: int, done: Callable[[Job], object]) -> list[Job]:
    failed = []
    waiting = {pool.submit(job, threads): job for job in jobs if not read_sets(job.folder)}
    for future in as_completed(waiting):
        job, error = waiting[future], future.exception()
        if error is not None:
            with job.log.open("a", encoding="utf-8") as log:
                traceback.print_exception(error, file=log)
        if error is not None or not future.result():
            failed.append(job)
        done(job)
    return failed
