"""Models that two gloo processes have sharded or wrapped are refused wherever a part of their weights would be read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaForCausalLM

from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents.layouts import full_policy, lora_policies
from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.agents.weight_probe import base_logprobs, fingerprint
from waltz_env.algorithms.processes import check_accelerator
from waltz_env.algorithms.registry import ALGORITHMS, algorithm
from waltz_env.algorithms.supervised import fit
from waltz_env.algorithms.training import checkpoint
from waltz_env.errors import UsageError
from waltz_env.types import CONVERSATION

Kind = Literal["adapter", "whole model"]
KINDS: tuple[Kind, ...] = ("adapter", "whole model")
IDS = torch.arange(8).unsqueeze(0)


def policy_of(model: LlamaForCausalLM, kind: Kind) -> LanguageModelPolicy:
    if kind == "adapter":
        return lora_policies(model, tiny_tokenizer(), rank=2)[CONVERSATION]
    return full_policy(model, tiny_tokenizer())


def sharded(model: Any) -> Any:
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model


def sample(policy: LanguageModelPolicy, *, adapter: bool = True) -> None:
    with policy.sampling_model(adapter=adapter) as model:
        model(input_ids=IDS)


def load(policy: LanguageModelPolicy) -> None:
    policy.load_state_dict({name: torch.zeros(tensor.shape) for name, tensor in policy.state_dict().items()})


TASKS: dict[str, Callable[[LanguageModelPolicy, Path], object]] = {
    "sample": lambda policy, folder: sample(policy),
    "sample from the base": lambda policy, folder: sample(policy, adapter=False),
    "save": lambda policy, folder: policy.save(folder),
    "save a plain model": lambda policy, folder: policy.save_merged(folder),
    "write a checkpoint": lambda policy, folder: checkpoint.save(folder, {"policy": policy.state_dict()}, {}, keep=1),
    "load": lambda policy, folder: load(policy),
    "fit examples": lambda policy, folder: fit(policy, [((1, 2), (3,))]),
    "tell an engine": lambda policy, folder: fingerprint(policy),
    "check an engine": lambda policy, folder: base_logprobs(policy, [1, 2, 3]),
    "hidden states": lambda policy, folder: policy.hidden_states(IDS, torch.ones_like(IDS), IDS, 2),
    "features": lambda policy, folder: policy.features(IDS, torch.ones_like(IDS), IDS, 2),
    "learn": lambda policy, folder: [algorithm(name).build(policy, Accelerator(cpu=True)) for name in ALGORITHMS],
}
"""What refuses a sharded policy."""


def refusal(do: Callable[..., object], *arguments: Any) -> str:
    """The message of the error that ``do`` ends with; empty if there is none."""
    try:
        do(*arguments)
    except UsageError as error:
        return str(error)
    return ""


def outcomes(kind: Kind, folder: Path) -> dict[str, Any]:
    policy = policy_of(tiny_model(), kind)
    for model in policy.models:
        sharded(model)
    results: dict[str, Any] = {name: refusal(task, policy, folder / name) for name, task in TASKS.items()}
    results["start"] = refusal(policy_of, sharded(tiny_model()), kind)
    results["wrapped"] = refusal(policy_of, DistributedDataParallel(tiny_model()), kind)
    results["logits"] = policy.logits(IDS, torch.ones_like(IDS), IDS, 2).detach()
    return results


def worker(rank: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", OMP_NUM_THREADS="1")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results: dict[str, Any] = {kind: outcomes(kind, Path(folder)) for kind in KINDS}
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    results["accelerate"] = refusal(check_accelerator, Accelerator(cpu=True, fsdp_plugin=plugin))
    torch.save(results, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("sharding")
    spawn(worker, (str(folder),), nprocs=2)
    written = {path.name for path in folder.iterdir()}
    assert written == {"0.pt", "1.pt"}  # whoever was refused has left nothing
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", [*TASKS, "start"])
def test_sharded_weights_are_refused_in_every_process(kind: Kind, task: str, results: list[dict[str, Any]]) -> None:
    for result in results:
        assert "sharded over processes" in result[kind][task]


@pytest.mark.parametrize("kind", KINDS)
def test_wrapped_models_are_refused(kind: Kind, results: list[dict[str, Any]]) -> None:
    for result in results:
        assert "got a DistributedDataParallel" in result[kind]["wrapped"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_policy_still_computes_its_logits(kind: Kind, results: list[dict[str, Any]]) -> None:
    whole = policy_of(tiny_model(), kind).logits(IDS, torch.ones_like(IDS), IDS, 2).detach()
    for result in results:
        assert torch.equal(result[kind]["logits"], whole)


def test_a_way_to_shard_that_accelerate_would_ignore_is_refused(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert "accelerate is configured for FSDP" in result["accelerate"]
