"""Two gloo processes on the CPU make the update of one on the same rows, decide together, and end cleanly."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.accelerator import Accelerator
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from tests.learners import random_table, toy_config
from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.protocols import STATE, LearnerConfig, Metrics, Sample
from waltz_env.algorithms.registry import ALGORITHMS
from waltz_env.algorithms.supervised import SupervisedConfig, fit
from waltz_env.cli.processes import processes
from waltz_env.errors import UsageError
from waltz_env.experiments.main_process import by_main_process

CONFIGS: dict[str, LearnerConfig] = {name: toy_config(name, learning_rate=0.05) for name in ALGORITHMS} | {
    "token": toy_config("reinforce++", learning_rate=0.05, aggregation="token", old_logprobs="trainer"),
    "reuse": toy_config("reinforce++-baseline", learning_rate=0.05, epochs=2),
    "micro": toy_config("reinforce++", learning_rate=0.05, tokens_per_microbatch=1),
}
SHARES = {"even": 4, "uneven": 1, "none": 0}
"""How many of the eight rows the first process has."""


def rows() -> list[Sample]:
    """Eight rows of unequal length, of two agents, in groups that any split cuts apart."""
    policy = ToyPolicy(random_table(5))
    generator = torch.Generator().manual_seed(0)
    found = []
    for i in range(8):
        prompt, agent, state = (i % 5,), f"agent_{i % 2}", (float(i % 3),) * len(STATE)
        ((tokens, logprobs),) = policy.sample([prompt], 1 + i % 4, generator=generator)
        found.append(Sample(prompt, tokens, logprobs, tokens.count(1) / len(tokens) + i, agent, 0, agent, state=state))
    return found


def update(samples: list[Sample], config: LearnerConfig, accelerator: Accelerator) -> tuple[Tensor, Metrics]:
    """Two updates, so that the optimizer's state counts too."""
    policy = ToyPolicy(random_table(5))
    if not accelerator.is_main_process:
        policy.table.data.zero_()  # a process that started from other weights gets those of the first
    learner = config.build(policy, accelerator)
    learner.update(samples)
    metrics = learner.update(samples)
    return policy.table.detach(), metrics


def fitted(accelerator: Accelerator) -> tuple[Tensor, list[float]]:
    """Four supervised steps on batches of three; the last batch of an epoch has one example, and one process none."""
    policy = ToyPolicy(random_table(5))
    examples = [((i % 5,), tuple(range(1 + i % 4))) for i in range(7)]
    settings = SupervisedConfig(steps=4, batch_size=3, learning_rate=0.05, prompt_weight=0.1)
    losses = fit(policy, examples, config=settings, accelerator=accelerator)
    return policy.table.detach(), losses


def worker(rank: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", OMP_NUM_THREADS="1")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    with processes() as accelerator:
        assert accelerator.num_processes == 2
        results: dict[str, Any] = {}
        for name, config in CONFIGS.items():
            for share, count in SHARES.items():
                mine = rows()[:count] if rank == 0 else rows()[count:]
                results[f"{name}-{share}"] = update(mine, config, accelerator)
        results["nobody"] = update([], CONFIGS["reinforce++"], accelerator)
        results["fitted"] = fitted(accelerator)
        results["decided"] = by_main_process(lambda: f"by {rank}", accelerator)
        try:
            by_main_process(partial(fail, f"told by {rank}"), accelerator)
        except UsageError as error:
            results["error"] = str(error)
        torch.save(results, Path(folder) / f"{rank}.pt")
    assert not distributed.is_initialized()


def fail(message: str) -> None:
    raise UsageError(message)


def test_two_processes_make_the_update_of_one(tmp_path: Path) -> None:
    spawn(worker, (str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        results = torch.load(tmp_path / f"{rank}.pt")
        for name, config in CONFIGS.items():
            table, metrics = update(rows(), config, Accelerator(cpu=True))
            for share in SHARES:
                their_table, their_metrics = results[f"{name}-{share}"]
                assert torch.allclose(their_table, table, rtol=0, atol=1e-6), f"{name}, {share}"
                assert their_metrics == pytest.approx(metrics, rel=1e-5, abs=1e-6)
        table, losses = fitted(Accelerator(cpu=True))
        assert torch.allclose(results["fitted"][0], table, rtol=0, atol=1e-6)
        assert results["fitted"][1] == pytest.approx(losses)
        table, metrics = results["nobody"]
        assert torch.equal(table, random_table(5))
        assert metrics["skipped"] == 1
        assert (results["decided"], results["error"]) == ("by 0", "told by 0")
