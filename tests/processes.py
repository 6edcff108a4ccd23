"""Several processes that meet over gloo on the CPU, for tests of what they do together."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import distributed
from torch.multiprocessing.spawn import spawn

Work = Callable[[Accelerator, Path], Any]


def run_together(work: Work, folder: Path, *, processes: int) -> list[Any]:
    """What ``work``, a function of a module, returns in each of several new processes."""
    folder.mkdir(parents=True, exist_ok=True)
    spawn(_process, (work, str(folder), processes), nprocs=processes)
    return [torch.load(folder / f"returned-{rank}.pt", weights_only=False) for rank in range(processes)]


def torchrun(processes: int, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``waltz`` with these words, in so many processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    waltz = ["--no-python", sys.executable, "-c", "import sys; from waltz_env.cli import main; sys.exit(main())"]
    usual = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launch, *waltz, *words],
        env={**usual, "ACCELERATE_USE_CPU": "true", **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def _process(rank: int, work: Work, folder: str, processes: int) -> None:
    size = str(processes)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=size, LOCAL_WORLD_SIZE=size, OMP_NUM_THREADS="1")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    torch.save(work(Accelerator(), Path(folder)), Path(folder) / f"returned-{rank}.pt")
    if distributed.is_initialized():
        distributed.destroy_process_group()
