"""``waltz benchmark``: algorithms over seeds on one preset, with equal games for all, in one folder."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from tqdm import tqdm

from waltz_env.algorithms.registry import ALGORITHMS, algorithm
from waltz_env.cli.benchmark_report import read_rows, write_report
from waltz_env.cli.experiment import play_untrained, run, seed_folder
from waltz_env.cli.results import read_sets
from waltz_env.errors import UsageError
from waltz_env.presets import Recipe, preset


@dataclass(frozen=True)
class Benchmark:
    """Trains algorithms over seeds and writes a table, learning curves, the ASR-ORR plane and ``benchmark.json``.

    What is finished is skipped, what was interrupted is continued, and a run that fails leaves the others alone.

    Attributes:
        out: folder for the runs and the results.
        algorithms: by name or dotted path; all that are included by default. The first one is what others are tested
            against.
        seeds: how many, from 0.
        preset: models, prompts, judge and common settings.
        jobs: runs at a time.
        rows: ``benchmark.json`` files of others, whose rows join the table and the pictures.
        threshold: R_c of training games that counts as solved, for games to threshold.
    """

    out: Path
    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    seeds: int = 5
    preset: str = "nano"
    jobs: int = 1
    rows: tuple[Path, ...] = ()
    threshold: float = 0.9

    def run(self) -> int:
        """Runs what is not there yet and reports; 1 if a run failed."""
        for name in self.algorithms:  # what is wrong is told before anything runs
            algorithm(name)
        for path in self.rows:
            read_rows(path)
        if self.seeds < 1 or self.jobs < 1:
            raise UsageError(f"seeds and jobs must be 1 or more; got {self.seeds} and {self.jobs}.")
        recipe = preset(self.preset).recipe
        first = [_Job(None, replace(recipe, seed=seed), self.out) for seed in range(self.seeds)]
        jobs = [
            _Job(name, replace(recipe, seed=seed, algorithm=name), self.out)
            for seed in range(self.seeds)
            for name in self.algorithms
        ]
        with ProcessPoolExecutor(self.jobs, mp_context=get_context("spawn")) as pool:
            threads = max(1, torch.get_num_threads() // self.jobs)
            failed = _work(first, pool, threads, "warm starts") or _work(jobs, pool, threads, "runs")
        console = Console()
        write_report(self.out, self.algorithms, others=self.rows, threshold=self.threshold, console=console)
        for name, log in failed.items():
            console.print(f"[bold red]{name} failed:[/] see {log}", highlight=False, soft_wrap=True)
        return 1 if failed else 0


@dataclass(frozen=True)
class _Job:
    """One algorithm on one seed; without an algorithm what the runs of a seed share."""

    algorithm: str | None
    recipe: Recipe
    out: Path

    @property
    def name(self) -> str:
        """Of the run's folder: a dotted path has characters that a folder's name should not have."""
        return (self.algorithm or "untrained").replace(":", ".")

    @property
    def done(self) -> bool:
        """Whether its results are there."""
        return bool(read_sets(seed_folder(self.out, self.recipe.seed) / self.name))

    @property
    def log(self) -> Path:
        return seed_folder(self.out, self.recipe.seed) / f"{self.name}.log"

    def __call__(self, threads: int) -> bool:
        """Whether it is done; what it prints goes to its log."""
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
            return run(self.name, self.recipe, self.out)


def _work(jobs: Sequence[_Job], pool: Executor, threads: int, name: str) -> dict[str, Path]:
    """Does what is not done and gives the logs of what could not be done."""
    failed = {}
    waiting = {pool.submit(job, threads): job for job in jobs if not job.done}
    for future in tqdm(as_completed(waiting), total=len(waiting), desc=name):
        job, error = waiting[future], future.exception()
        if error is not None:
            with job.log.open("a", encoding="utf-8") as log:
                traceback.print_exception(error, file=log)
        if error is not None or not future.result():
            failed[f"{job.name}, seed {job.recipe.seed}"] = job.log
    return failed
