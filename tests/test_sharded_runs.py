"""Two processes with sharded policies learn as replicas do, save, resume, export, and end when one of them dies."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.processes import run_together
from tests.sharded import (
    ADAPTERS,
    EXACT,
    LAYOUTS,
    MORTAL,
    ROUNDED,
    SHARES,
    WHOLE_MODELS,
    Case,
    check_compared,
    compared,
    config_of,
    updates,
)
from tests.tiny import tiny_model, tiny_tokenizer
from tests.vllm_stand_in import StandIn
from waltz_env.agents.layouts import lora_policies
from waltz_env.agents.sampling import RowSampling
from waltz_env.agents.vllm_servers import VLLMServers
from waltz_env.algorithms.training import checkpoint
from waltz_env.cli import main
from waltz_env.cli.processes import processes
from waltz_env.errors import ProcessError
from waltz_env.experiments.run import execute
from waltz_env.experiments.saved_run import load_run, read_recipe
from waltz_env.lock_step import in_step
from waltz_env.presets import Recipe
from waltz_env.run_folder import RunFolder
from waltz_env.types import AGENTS

CASES: list[Case] = [
    (name, share, LAYOUTS[(i + j) % len(LAYOUTS)]) for i, name in enumerate(EXACT) for j, share in enumerate(SHARES)
] + [(name, "uneven", layout) for name, layout in zip(ROUNDED, LAYOUTS, strict=True)]
"""Every algorithm with every share, and either layout with each of both; make test-sharding has all combinations."""


def after(steps: int) -> Callable[[], bool]:
    """Asks to stop after so many steps."""
    asked: list[None] = []

    def should_stop() -> bool:
        asked.append(None)
        return len(asked) == steps

    return should_stop


def everything(accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    """All that two processes do here, in one go, because it takes long until they have started."""

    def run(name: str, recipe: Recipe, **settings: Any) -> Any:
        return execute(recipe, folder / name, accelerator=accelerator, **{"untrained": False} | settings)

    results: dict[str, Any] = {"compared": compared(CASES, accelerator)}
    half = config_of("reinforce++", old_logprobs="trainer")
    results["bfloat16"] = [
        updates(layout, half, 1, accelerator, sharded=True, recomputed=True, bf16=bf16)[1][0]
        for layout in LAYOUTS
        for bf16 in (True, False)
    ]
    run("replicas", replace(WHOLE_MODELS, shard=False))
    run("whole", WHOLE_MODELS, untrained=True)
    run("adapters", ADAPTERS)
    for name, recipe in {"whole": WHOLE_MODELS, "adapters": ADAPTERS}.items():
        stopped = run(f"{name}-in-two", recipe, should_stop=after(2))
        results[f"{name} stopped"] = stopped is None
        if accelerator.is_main_process:
            shutil.copytree(folder / f"{name}-in-two", folder / f"{name}-half")
        accelerator.wait_for_everyone()
        run(f"{name}-in-two", recipe, resume=True)

    results["servers"] = asked_of_servers(accelerator)

    torch.save({}, folder / f"returned-{accelerator.process_index}.pt")
    os.environ["DIES_AFTER"] = str(folder / "dying" / "checkpoints" / "step-00001")
    try:
        with processes() as ours:
            execute(MORTAL, folder / "dying", accelerator=ours, untrained=False)
    except ProcessError as error:
        results["error"] = str(error)
    return results


def asked_of_servers(accelerator: Accelerator) -> list[float]:
    """Shares of new adapters that arrived at a server of this process, which never asks for the other's adapter."""
    server = StandIn()
    policies = list(lora_policies(tiny_model(), tiny_tokenizer(), rank=4).values())
    for number, policy in enumerate(policies):
        policy.shard()
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.02 * (number + 1))
    engine = VLLMServers(policies, [server.url], dtype=torch.float32)
    arrived = []
    with in_step():
        for turn in range(2):
            policy = policies[(turn + accelerator.process_index) % 2]
            prompts = [[10, 20, 30]] * (1 + accelerator.process_index)
            rows = [RowSampling(temperature=1.0, top_p=1.0, limit=2, seed=7)] * len(prompts)
            engine.generate(policy, prompts, sampling=rows, stop_ids=[])
            arrived.append(engine.report.arrived if engine.report is not None else 0.0)
    engine.close()
    server.die()
    return arrived


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    """What the first process has seen."""
    return run_together(everything, folder, processes=2)[0]


def saved(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    newest = checkpoint.latest(RunFolder(folder).checkpoints)
    assert newest is not None
    return checkpoint.load(newest)


def check_same(folder: Path, other: Path) -> None:
    """That both runs ended with the same weights, optimizers, references and random states, bit for bit."""
    (tensors, meta), (others, other_meta) = saved(folder), saved(other)
    assert meta == other_meta
    assert tensors.keys() == others.keys()
    for group in tensors:
        assert tensors[group].keys() == others[group].keys()
        for name, tensor in tensors[group].items():
            assert torch.equal(tensor, others[group][name]), (group, name)


def test_an_update_of_sharded_policies_is_that_of_replicas(results: dict[str, Any]) -> None:
    check_compared(results["compared"], processes=2)


def test_a_run_of_sharded_models_is_that_of_replicas(results: dict[str, Any], folder: Path) -> None:
    check_same(folder / "whole", folder / "replicas")
    steps = [line["step"] for line in RunFolder(folder / "whole").read_metrics()]
    assert steps == [1, 2, 3, 4]
    sets = json.loads((folder / "whole" / "results.json").read_text())["sets"]
    assert list(sets["mine"]["systems"]) == ["baseline", "untrained_pair", "trained_pair"]


@pytest.mark.parametrize("name", ["whole", "adapters"])
def test_two_steps_and_two_more_are_four(name: str, results: dict[str, Any], folder: Path) -> None:
    assert results[f"{name} stopped"]
    check_same(folder / f"{name}-in-two", folder / name)


@pytest.mark.parametrize("name", ["whole", "adapters"])
def test_one_process_without_shards_goes_on(name: str, results: dict[str, Any], folder: Path) -> None:
    half = RunFolder(folder / f"{name}-half")
    tensors, _ = saved(half.path)
    recipe, bench = load_run(half, Accelerator())
    for agent in AGENTS:
        for weight, tensor in bench.agents[agent].policy.state_dict().items():  # type: ignore[attr-defined]
            assert torch.equal(weight_of(tensors, agent)[weight], tensor)
    assert execute(recipe, half, resume=True, untrained=False) is not None
    assert [line["step"] for line in half.read_metrics()] == [1, 2, 3, 4]


def weight_of(tensors: dict[str, dict[str, Tensor]], agent: str) -> dict[str, Tensor]:
    return tensors[f"policy/{agent}"]


def test_sharded_policies_compute_in_bfloat16_as_their_references_do(results: dict[str, Any]) -> None:
    in_bfloat16, in_float32 = results["bfloat16"][::2], results["bfloat16"][1::2]
    for half, single in zip(in_bfloat16, in_float32, strict=True):
        assert half["kl"] == 0
        assert half["ratio_mean"] == 1
        assert half["grad_norm"] != single["grad_norm"]
        assert half["grad_norm"] == pytest.approx(single["grad_norm"], rel=0.05)


def test_servers_get_adapters_from_all_processes(results: dict[str, Any]) -> None:
    assert results["servers"] == [pytest.approx(1, abs=0.01)] * 2


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_weights_load_elsewhere(results: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    assert main(["export", str(folder / "whole"), "--to", str(tmp_path / "out"), "--merged"]) == 0
    for agent, role in zip(AGENTS, ("conversation", "feedback"), strict=True):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / role)
        trained = weight_of(saved(folder / "whole")[0], agent)
        assert all(torch.equal(trained[name], weight) for name, weight in model.named_parameters())

        adapted = PeftModel.from_pretrained(tiny_model(), str(RunFolder(folder / "adapters").weights / agent))
        trained = weight_of(saved(folder / "adapters")[0], agent)
        found = {name.replace(".default.", "."): weight for name, weight in adapted.named_parameters()}
        assert all(torch.equal(weight, found[name]) for name, weight in trained.items())


def test_when_a_process_dies_the_others_say_so_and_the_run_can_be_resumed(
    results: dict[str, Any], folder: Path
) -> None:
    assert "Another process of this run has ended" in results["error"]
    run = RunFolder(folder / "dying")
    assert [line["step"] for line in run.read_metrics()] == [1]
    assert execute(read_recipe(run), run, resume=True, untrained=False) is not None
    assert [line["step"] for line in run.read_metrics()] == [1, 2, 3, 4]
