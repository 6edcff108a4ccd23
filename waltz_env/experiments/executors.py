"""Where the jobs of an experiment run: in processes on this machine, or as tasks of a Ray cluster.

Files and rows are the same: a job writes to the experiment's folder only, and runs on as many threads in both.
"""

from __future__ import annotations

import os
import platform
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from waltz_env.errors import UsageError
from waltz_env.experiments.jobs import Execute, Job
from waltz_env.extras import missing

if TYPE_CHECKING:
    from ray import ObjectRef

RETRIES = 3  # per job on Ray: Ray's own default


def executor(
    out: Path, *, workers: int, threads: int, ray: Sequence[str] | None, gpus: float | None
) -> AbstractContextManager[Execute]:
    """The executor that a command was asked for.

    Args:
        out: folder of the experiment.
        workers: number of jobs at a time, on this machine.
        threads: number of CPU threads of each job.
        ray: the words after ``--ray``, none or an address; None: without Ray.
        gpus: number of GPUs of each job, on Ray.

    Raises:
        UsageError: the arguments do not go together.
    """
    if ray is None:
        if gpus is not None:
            raise UsageError("--gpus is for --ray: without Ray, every run sees all GPUs of this machine.")
        return in_processes(workers, threads=threads)
    if len(ray) > 1:
        raise UsageError(f"--ray takes one address or none; got {' '.join(ray)}.")
    return on_ray(out, address=ray[0] if ray else None, threads=threads, gpus=gpus)


@contextmanager
def in_processes(workers: int, *, threads: int) -> Iterator[Execute]:
    """Jobs in processes of their own on this machine.

    A process that is killed, for its memory say, fails its own job and no other. After Ctrl-C, which the terminal also
    sends to the processes, running jobs end their step and can be continued.

    Args:
        workers: number of jobs at a time.
        threads: number of CPU threads of each.
    """
    idle: SimpleQueue[ProcessPoolExecutor] = SimpleQueue()
    for _ in range(workers):
        idle.put(_process())

    def attempt(job: Job) -> bool:
        process = idle.get()
        try:
            return process.submit(job, threads).result()
        except BrokenProcessPool:
            process.shutdown()
            process = _process()
            raise
        finally:
            idle.put(process)

    def execute(jobs: Sequence[Job], tick: Callable[[], object]) -> Iterator[tuple[Job, bool]]:
        running = {pool.submit(attempt, job): job for job in jobs}
        left = set(running)
        while left:
            ended, left = wait(left, timeout=1.0, return_when=FIRST_COMPLETED)
            yield from ((running[future], _outcome(running[future], future)) for future in ended)
            tick()

    with ThreadPoolExecutor(workers) as pool:
        try:
            yield execute
        finally:
            pool.shutdown(cancel_futures=True)
            while not idle.empty():
                idle.get().shutdown()


def _process() -> ProcessPoolExecutor:
    """A process that starts with its first job."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def _outcome(job: Job, future: Future[bool]) -> bool:
    error = future.exception()
    if error is None:
        return future.result()
    job.note(error)
    return False


@contextmanager
def on_ray(out: Path, *, address: str | None = None, threads: int, gpus: float | None = None) -> Iterator[Execute]:
    """Jobs as tasks of a Ray cluster.

    A job that fails, or whose worker or machine is lost, is tried again up to ``RETRIES`` times and goes on from its
    last checkpoint; Ray tells each failed attempt on the terminal. After Ctrl-C, running jobs end their step and can be
    continued.

    Args:
        out: folder of the experiment, which all machines of the cluster must see under the same path.
        address: of the cluster. None: as ``ray.init`` does, the one named by ``RAY_ADDRESS`` or that this machine
            belongs to, otherwise a Ray on this machine alone that ends with the block.
        threads: number of CPU threads, and of Ray's CPUs, of each job.
        gpus: number of GPUs of each job. None: one where the cluster has any.

    Raises:
        UsageError: Ray is not installed, there is no cluster at the address, or no machine of it has so many CPUs or
            GPUs.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise missing(error) or error from error
    _connect(address)
    running: dict[ObjectRef[Any], Job] = {}

    def execute(jobs: Sequence[Job], tick: Callable[[], object]) -> Iterator[tuple[Job, bool]]:
        for job in jobs:
            running[task.remote(_absolute(job), threads, marker, Path.cwd())] = job
        while running:
            for ref in ray.wait(list(running), timeout=1.0)[0]:
                job = running.pop(ref)
                yield job, _result(job, ref)
            tick()

    marker = out.resolve() / f".{secrets.token_hex(4)}.ray"
    try:
        task = ray.remote(**_needs(threads, gpus), max_retries=RETRIES, retry_exceptions=True)(_attempt)
        marker.touch()
        yield execute
    except KeyboardInterrupt:
        for ref in running:
            ray.cancel(ref)  # the job takes it for its own Ctrl-C
        if running:
            ray.wait(list(running), num_returns=len(running))
        raise
    finally:
        ray.shutdown()
        marker.unlink(missing_ok=True)


def _connect(address: str | None) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    named = address or os.environ.get("RAY_ADDRESS", "")
    try:
        host, _, port = named.removeprefix("ray://").rpartition(":")
        if host and port.isdecimal():  # Ray itself would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address, include_dashboard=False, log_to_driver=False)
    except (OSError, OverflowError, ValueError) as error:
        at = f" at {named}" if named else ""
        raise UsageError(f"No Ray cluster could be reached{at}: {error}") from error


def _needs(threads: int, gpus: float | None) -> dict[str, Any]:
    """What Ray keeps free for a job."""
    import ray

    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus % 1)):
        raise UsageError(f"gpus must be a share of one GPU or a whole number; got {gpus}.")
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    have_gpus = any("GPU" in machine for machine in machines)
    gpus = float(have_gpus) if gpus is None else gpus
    if not any(machine.get("CPU", 0) >= threads and machine.get("GPU", 0) >= gpus for machine in machines):
        most = max((machine.get("CPU", 0), machine.get("GPU", 0)) for machine in machines)
        raise UsageError(
            f"Each run takes {threads} CPUs and {gpus:g} GPUs, and no machine of the Ray cluster has them: the largest "
            f"has {most[0]:g} and {most[1]:g}. A run takes fewer CPUs with more --jobs, and fewer GPUs with --gpus."
        )
    hidden = {"runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}} if have_gpus and not gpus else {}
    return {"num_cpus": threads, "num_gpus": gpus, **hidden}


def _absolute(job: Job) -> Job:
    """The job in the same folder from wherever it runs."""
    return replace(job, out=job.out.resolve(), costs_as=job.costs_as and _absolute(job.costs_as))


def _attempt(job: Job, threads: int, marker: Path, folder: Path) -> bool:
    """What a worker of the cluster does; ``folder`` is what relative paths of the recipe begin at."""
    if not marker.exists():
        raise UsageError(
            f"{platform.node()} does not see {job.out}. Choose an --out that all machines of the cluster share."
        )
    if folder.is_dir():
        os.chdir(folder)
    return job(threads)


def _result(job: Job, ref: ObjectRef[Any]) -> bool:
    import ray
    from ray.exceptions import RayError

    try:
        return ray.get(ref)
    except RayError as error:
        job.note(error)
        return False
