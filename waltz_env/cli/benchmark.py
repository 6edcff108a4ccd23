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

from waltz_env.algorithms.registry import ALGORITHMS
from waltz_env.cli.benchmark_report import read_rows, write_report
from waltz_env.cli.experiment import check_settings, play_untrained, run, seed_folder
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
        steps: of stage 1 and stage 2; the preset's by default.
        jobs: runs at a time.
        rows: ``benchmark.json`` files of others, whose rows join the table and the pictures.
        threshold: R_c of training games that counts as solved, for games to threshold.
    """

    out: Path
    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    seeds: int = 5
    preset: str = "nano"
    steps: tuple[int, int] | None = None
    jobs: int = 1
    rows: tuple[Path, ...] = ()
    threshold: float = 0.9

    def run(self) -> int:
        """Runs what is not there yet and reports; 1 if a run failed."""
        if self.seeds < 1 or self.jobs < 1:
            raise UsageError(f"seeds and jobs must be 1 or more; got {self.seeds} and {self.jobs}.")
        recipe = preset(self.preset).recipe
        if self.steps is not None:
            recipe = replace(recipe, stage_1_steps=self.steps[0], stage_2_steps=self.steps[1])
        first = [_Job(None, replace(recipe, seed=seed), self.out) for seed in range(self.seeds)]
        jobs = [
            _Job(name, replace(recipe, seed=seed, algorithm=name), self.out)
            for seed in range(self.seeds)
            for name in self.algorithms
        ]
        for job in jobs:  # what is wrong is told before anything runs
            job.check()
        for path in self.rows:
            read_rows(path)
        threads = max(1, torch.get_num_threads() // self.jobs)
        with ProcessPoolExecutor(self.jobs, mp_context=get_context("spawn")) as pool:
            try:
                failed = _work(first, pool, threads, "warm starts")
                jobs = [job for job in jobs if job.recipe.seed not in {each.recipe.seed for each in failed}]
                failed += _work(jobs, pool, threads, "runs")
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)  # what runs ends its step and can be continued
                raise
        console = Console()
        write_report(self.out, self.algorithms, others=self.rows, threshold=self.threshold, console=console)
        for job in failed:
            text = f"[bold red]{job.name}, seed {job.recipe.seed} failed:[/] see {job.log}"
            console.print(text, highlight=False, soft_wrap=True)
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
    def folder(self) -> Path:
        return seed_folder(self.out, self.recipe.seed) / self.name

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.name}.log")

    def check(self) -> None:
        """Raises ``UsageError`` where it could not run: no such algorithm, or the folder has another run."""
        self.recipe.stages()
        check_settings(self.folder, self.recipe)

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


def _work(jobs: Sequence[_Job], pool: Executor, threads: int, name: str) -> list[_Job]:
    """Does what is not done and gives back what could not be done."""
    failed = []
    waiting = {pool.submit(job, threads): job for job in jobs if not read_sets(job.folder)}
    for future in tqdm(as_completed(waiting), total=len(waiting), desc=name):
        job, error = waiting[future], future.exception()
        if error is not None:
            with job.log.open("a", encoding="utf-8") as log:
                traceback.print_exception(error, file=log)
        if error is not None or not future.result():
            failed.append(job)
    return failed
