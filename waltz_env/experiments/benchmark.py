"""Algorithms over seeds on one preset, several runs at a time, each in a process of its own.

Where branches are compared, the runs of an algorithm and a seed sample about equally many tokens: each has as many
prompts per step as its branches can have for the tokens that the run with the first branches sampled.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from multiprocessing import get_context
from pathlib import Path

import torch

from waltz_env.branches import Branches, games_at_equal_tokens
from waltz_env.experiments.over_seeds import UNTRAINED, check_settings, play_untrained, run, run_folder
from waltz_env.experiments.results import read_sets
from waltz_env.judges import load_judge
from waltz_env.judging import check_judge
from waltz_env.presets import Recipe, with_algorithm
from waltz_env.records import training_games
from waltz_env.run_folder import RunFolder
from waltz_env.stop_signal import stop_signal


@dataclass(frozen=True, slots=True)
class Job:
    """One algorithm on one seed, or without an algorithm what the runs of a seed share.

    Attributes:
        algorithm: name or dotted path of the algorithm, with the branches where branches are compared.
        recipe: settings of the run.
        out: folder of the benchmark.
        costs_as: the run whose sampled tokens decide how many games this one plays per step.
    """

    algorithm: str | None
    recipe: Recipe
    out: Path
    costs_as: Job | None = None

    @property
    def name(self) -> str:
        """Name of the run's folder. A dotted path has characters that a folder's name should not have."""
        return run_name(self.algorithm) if self.algorithm else UNTRAINED

    @property
    def folder(self) -> RunFolder:
        return run_folder(self.out, self.recipe.seed, self.name)

    @property
    def steps(self) -> int:
        """Number of training steps."""
        return sum(stage.steps for stage in self.recipe.stages) if self.algorithm else 0

    def steps_done(self) -> int:
        """Number of training steps that have been done so far, by any process."""
        try:
            return self.folder.metrics.read_bytes().count(b"\n")
        except OSError:  # it has not begun
            return 0

    @property
    def log(self) -> Path:
        return self.folder.path.with_name(f"{self.name}.log")

    def check(self) -> None:
        """Check, before anything runs, that the job could run.

        Raises:
            UsageError: the recipe cannot work, or the folder has another run.
        """
        self.recipe.check()
        if self.costs_as is None or read_sets(self.costs_as.folder):
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
                return run(self.name, self.settings(), self.out, should_stop=should_stop) is not None


def run_name(algorithm: str) -> str:
    """The name of the folder of an algorithm's runs."""
    return algorithm.replace(":", ".").replace(" ", "-")


def with_branches(algorithm: str, branches: Branches) -> str:
    """The name of an algorithm where branches are compared, such as ``rloo 1,4,1``."""
    return f"{algorithm} {','.join(map(str, branches))}"


def jobs_of(
    recipe: Recipe, algorithms: Sequence[str], *, branches: Sequence[Branches] = (), seeds: int, out: Path
) -> tuple[list[Job], list[Job]]:
    """The jobs of a benchmark: what each seed's runs share, then the runs.

    Args:
        recipe: settings that the runs have in common.
        algorithms: algorithms by name or dotted path.
        branches: branches to compare, each with each algorithm; none: those of the recipe.
        seeds: number of seeds, counted from 0.
        out: folder of the benchmark.

    Raises:
        UsageError: an algorithm is unknown, or a job could not run. Nothing has been done then.
        JudgeError: the server of the judge does not answer.
    """
    recipes = [replace(recipe, seed=seed) for seed in range(seeds)]
    shared = [Job(None, each, out) for each in recipes]
    runs = [
        job
        for each in recipes
        for name in algorithms
        for job in _branched(Job(name, with_algorithm(each, name), out), branches)
    ]
    for job in runs:
        job.check()
    if "@" in recipe.judge:  # on a server; a judge in this process is asked by each run, which has to load it anyway
        check_judge(load_judge(recipe.judge), recipe.judge)
    return shared, runs


def _branched(job: Job, branches: Sequence[Branches]) -> list[Job]:
    """The job with each of the branches; all cost as much as the first."""
    jobs: list[Job] = []
    for each in branches:
        games = job.recipe.loop.games if not jobs else prod(each)  # ``Job.settings`` says how many it will be
        recipe = replace(job.recipe, loop=replace(job.recipe.loop, branches=each, games=games))
        name = with_branches(str(job.algorithm), each)
        jobs.append(Job(name, recipe, job.out, costs_as=jobs[0] if jobs else None))
    return jobs or [job]


def run_jobs(
    shared: Sequence[Job],
    runs: Sequence[Job],
    *,
    workers: int,
    threads: int,
    progress: Callable[[Sequence[Job]], object] = lambda done: None,
) -> list[Job]:
    """Do what has not been done yet. A job that fails leaves the others alone, except those that need what it makes.

    Args:
        shared: jobs that make what the runs of a seed share; they go first.
        runs: the runs.
        workers: number of jobs at a time.
        threads: number of CPU threads of each.
        progress: called about once a second with the jobs that are done or have failed.

    Returns:
        The jobs that failed; the reason is in their logs.
    """
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            ended: list[Job] = []
            failed = _work(shared, pool, threads, ended, progress)
            lost = {job.recipe.seed for job in failed}
            left = [job for job in runs if job.recipe.seed not in lost]
            failed += _work([job for job in left if job.costs_as is None], pool, threads, ended, progress)
            left = [job for job in left if job.costs_as is not None and job.costs_as not in failed]
            return failed + _work(left, pool, threads, ended, progress)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)  # jobs that are running end their step and can be continued
            raise


def _work(
    jobs: Sequence[Job],
    pool: Executor,
    threads: int,
    ended: list[Job],
    progress: Callable[[Sequence[Job]], object],
) -> list[Job]:
    failed = []
    finished = [job for job in jobs if read_sets(job.folder)]
    ended += finished
    waiting = {pool.submit(job, threads): job for job in jobs if job not in finished}
    for future in _as_completed(waiting, lambda: progress(ended)):
        job, error = waiting[future], future.exception()
        if error is not None:
            with job.log.open("a", encoding="utf-8") as log:
                traceback.print_exception(error, file=log)
        if error is not None or not future.result():
            failed.append(job)
        ended.append(job)
        progress(ended)
    return failed


def _as_completed(waiting: Iterable[Future[bool]], tick: Callable[[], object]) -> Iterator[Future[bool]]:
    """Futures as they end; calls ``tick`` about once a second until all have."""
    left = set(waiting)
    while left:
        done, left = wait(left, timeout=1.0, return_when=FIRST_COMPLETED)
        yield from done
        tick()
