"""Algorithms over seeds on one preset: the jobs of ``waltz benchmark``.

Where branches are compared, the runs of an algorithm and a seed sample about equally many tokens: each has as many
prompts per step as its branches can have for the tokens that the run with the first branches sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

from waltz_env.branches import Branches
from waltz_env.experiments.jobs import Job
from waltz_env.experiments.over_seeds import UNTRAINED
from waltz_env.judges import load_judge
from waltz_env.judging import check_judge
from waltz_env.presets import Recipe, with_algorithm


def run_name(algorithm: str) -> str:
    """The name of the folder of an algorithm's runs. Dotted paths and branches have characters that it should not."""
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
    shared = [Job(UNTRAINED, each, out) for each in recipes]
    runs = [
        job
        for each in recipes
        for name in algorithms
        for job in _branched(name, Job(run_name(name), with_algorithm(each, name), out), branches)
    ]
    for job in runs:
        job.check()
    if "@" in recipe.judge:  # on a server; a judge in this process is asked by each run, which has to load it anyway
        check_judge(load_judge(recipe.judge), recipe.judge)
    return shared, runs


def _branched(algorithm: str, job: Job, branches: Sequence[Branches]) -> list[Job]:
    """The job with each of the branches; all cost as much as the first."""
    jobs: list[Job] = []
    for each in branches:
        games = job.recipe.loop.games if not jobs else prod(each)  # ``Job.settings`` says how many it will be
        recipe = replace(job.recipe, loop=replace(job.recipe.loop, branches=each, games=games))
        name = run_name(with_branches(algorithm, each))
        jobs.append(Job(name, recipe, job.out, costs_as=jobs[0] if jobs else None))
    return jobs or [job]
