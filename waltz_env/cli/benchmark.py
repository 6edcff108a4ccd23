"""``waltz benchmark``: algorithms over seeds on one preset, with equal games or tokens for all, in one folder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.markdown import Markdown

from waltz_env.agents.engines import check_engine
from waltz_env.algorithms.registry import ALGORITHMS
from waltz_env.branches import parse_branches
from waltz_env.cli.arguments import parse_into
from waltz_env.cli.console import console
from waltz_env.cli.progress import StepBar
from waltz_env.cli.tables import print_next
from waltz_env.cli.train import parse as parse_train
from waltz_env.errors import UsageError
from waltz_env.experiments.benchmark import jobs_of, with_branches
from waltz_env.experiments.benchmark_table import read_rows, rows_of, write_benchmark
from waltz_env.experiments.executors import executor
from waltz_env.experiments.jobs import run_jobs
from waltz_env.files import alone, writable_folder
from waltz_env.presets import Recipe, preset, with_steps
from waltz_env.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Train algorithms over seeds; write a table, learning curves, the ASR-ORR plane and benchmark.json.

    Finished runs are skipped, interrupted ones continue, and a run that fails does not stop the others.

    For example: waltz benchmark --algorithms reinforce++ rloo --seeds 2 --out bench

    Attributes:
        out: folder for the runs and the results.
        algorithms: algorithms by name or dotted path; the others are tested against the first one.
        branches: branches to compare, drafts,critiques,revisions such as 1,1,1 1,4,1, with each algorithm: all runs
            sample about as many tokens as those with the first branches. The default is the preset's, and equal games.
        seeds: number of seeds, counted from 0.
        preset: models, prompts, judge and common settings.
        config: in place of the preset, settings of an earlier run (config.json), or a TOML file with flags of train.
        steps: number of steps of each stage; the default is the preset's.
        engine: engine that samples: transformers, vllm (in each run's process), running vLLM servers (vllm@URL,URL), or
            a Tinker service that also trains (tinker, tinker@URL); the default is that of the preset or the file.
        jobs: number of runs at a time, which share the CPU threads of this machine.
        ray: run on a Ray cluster: without an address on the one that this machine belongs to, otherwise on this machine
            alone. Each run takes as many CPUs as without Ray, and as many run at a time as the cluster has room for.
        gpus: with --ray, number of GPUs of each run, or a share of one; the default is 1 where the cluster has any.
        rows: benchmark.json files of other people, whose rows are added to the table and the pictures.
        threshold: R_c of the training games that counts as solved, for the number of games until then.
    """

    out: Path
    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    branches: tuple[str, ...] = ()
    seeds: int = 5
    preset: str = "nano"
    config: Path | None = None
    steps: tuple[int, ...] | None = None
    engine: str | None = None
    jobs: int = 1
    ray: tuple[str, ...] | None = None
    gpus: float | None = None
    rows: tuple[Path, ...] = ()
    threshold: float = 0.9

    @property
    def recipe(self) -> Recipe:
        """The settings that the runs have in common."""
        config = self.config
        recipe = preset(self.preset).recipe if config is None else parse_train(["--config", str(config)]).recipe
        if self.engine is not None:
            recipe = replace(recipe, engine=self.engine)
        return recipe if self.steps is None else with_steps(recipe, *self.steps)

    def run(self) -> int:
        """Run what is not there yet and report; 1 if a run failed."""
        if self.seeds < 1 or self.jobs < 1:
            raise UsageError(f"seeds and jobs must be 1 or more; got {self.seeds} and {self.jobs}.")
        recipe = self.recipe
        check_engine(recipe.engine)
        if RunFolder(self.out).has_config():
            raise UsageError(f"{self.out} is the folder of a run. Choose another --out.")
        with alone(writable_folder(self.out)):
            return self._run(recipe)

    def _run(self, recipe: Recipe) -> int:
        others = [row for path in self.rows for row in read_rows(path)]  # damaged files are errors before anything runs
        branches = [parse_branches(each) for each in dict.fromkeys(self.branches)]
        names = [with_branches(name, each) for name in self.algorithms for each in branches] or list(self.algorithms)
        for name in names:
            rows_of(self.out, name)
        shared, runs = jobs_of(recipe, self.algorithms, branches=branches, seeds=self.seeds, out=self.out)
        threads = preset(recipe.preset).threads or max(1, torch.get_num_threads() // self.jobs)
        where = executor(self.out, workers=self.jobs, threads=threads, ray=self.ray, gpus=self.gpus)
        with where as execute, StepBar(shared, runs) as progress:
            failed = run_jobs([*shared, *runs], execute=execute, progress=progress)
        table = write_benchmark(self.out, names, others=others, threshold=self.threshold)
        if table is not None:
            console().print(Markdown(table))
        for job in failed:
            print(f"{job.name}, seed {job.recipe.seed} failed: see {job.log}")
        finished = [job for job in runs if job.finished()]
        if finished:
            print(f"Rows, table and pictures: {self.out}")
            print_next([f"report {shlex.join(str(job.folder.path) for job in finished)}"])
        return 1 if failed or not finished else 0


def parse(arguments: Sequence[str]) -> Benchmark:
    """The command with its arguments; see ``parse_into``."""
    return parse_into(Benchmark, "benchmark", arguments)
