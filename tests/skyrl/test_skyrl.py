"""`waltz train --engine tinker@URL` on SkyRL's server: two policies learn, a run continues, and updates are ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import AutoTokenizer

from tests.skyrl.conftest import SkyRL
from waltz_env.agents import load_model, lora_policies
from waltz_env.agents.lora import read_weights
from waltz_env.agents.tinker_policy import TinkerPolicy, connect, reduction_of
from waltz_env.algorithms import algorithm
from waltz_env.algorithms.protocols import Sample
from waltz_env.algorithms.remote_learner import remote_learner
from waltz_env.cli import main
from waltz_env.cli.train import parse
from waltz_env.experiments.run import execute
from waltz_env.run_folder import RunFolder
from waltz_env.types import CONVERSATION, FEEDBACK

RANK = 4


def test_two_stages_and_a_resumed_run_on_a_server_that_was_started_again(skyrl: SkyRL, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    flags = (
        f"--model {skyrl.model} --engine tinker@{skyrl.url} --prompts builtin:train:8 --test builtin:test:2 "
        "--judge tests.outside:AN_EVEN_JUDGE --stage-1.steps 2 --stage-2.steps 2 --no-test-each-stage --loop.games 4 "
        f"--loop.save-every 1 --max-new-tokens 8 --adapter-rank {RANK} --system-prompts short "
        "--learner.min-reward-std 0 --learner.learning-rate 1e-2"
    )
    recipe = parse(flags.split()).recipe
    asked = iter(range(1, 9))
    assert execute(recipe, folder, untrained=False, should_stop=lambda: next(asked) == 3) is None
    before = list(folder.read_metrics())
    skyrl.stop()
    skyrl.start()
    results = execute(recipe, folder, untrained=False, resume=True)
    assert results is not None
    metrics = list(folder.read_metrics())
    assert metrics[:3] == before
    assert len(metrics) == 4
    for first, name in ((metrics[0], FEEDBACK), (metrics[2], CONVERSATION)):
        assert float(first[f"{name}/kl_k3"]) == pytest.approx(0, abs=1e-5)  # it begins at the base model
        assert float(first[f"{name}/ratio_mean"]) == pytest.approx(1, abs=1e-4)
    # Random feedback is malformed and earns nothing; drafts earn 0 or 1.
    assert float(metrics[3][f"{CONVERSATION}/kl_k3"]) > 1e-3
    for name in (CONVERSATION, FEEDBACK):
        told = json.loads((folder.weights / name / "tinker.json").read_text())
        assert skyrl.adapter(told["sampler"], tmp_path / name)
    out = tmp_path / "evaluation"
    assert main(["evaluate", str(folder.path), "--engine", recipe.engine, "--out", str(out), "--no-untrained"]) == 0


def test_an_update_on_the_server_is_that_of_a_learner_in_this_process(skyrl: SkyRL, tmp_path: Path) -> None:
    service, model = connect(skyrl.url), str(skyrl.model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    reduction = reduction_of(service, model, rank=RANK)
    assert reduction == "mean"  # what this backend does, against the API
    policy = TinkerPolicy(service, model, tokenizer=tokenizer, rank=RANK, seed=1, reduction=reduction)
    here = lora_policies(*load_model(model), names=[CONVERSATION], rank=RANK)[CONVERSATION]
    here.load_state_dict(saved(skyrl, policy, tmp_path / "start"))  # the server names no targets: all linear layers
    config: Any = algorithm("reinforce++", learning_rate=1e-3, beta=0.1, max_grad_norm=float("inf"))
    rows = samples(policy)
    there = remote_learner(config, policy).update(rows)
    own = config.build(here, Accelerator(cpu=True)).update(rows)
    for name in ("loss", "kl", "ratio_mean", "grad_norm"):
        assert there[name] == pytest.approx(own[name], rel=1e-3, abs=1e-4), name
    moved = saved(skyrl, policy, tmp_path / "moved")
    pairs = [(here.state_dict()[name], tensor) for name, tensor in moved.items()]
    differences = torch.cat([(mine - theirs).abs().flatten() for mine, theirs in pairs])
    # AdamW's first step moves every weight by the learning rate, also where the gradient is nothing but rounding.
    assert float((differences < 1e-5).float().mean()) > 0.99


def saved(skyrl: SkyRL, policy: TinkerPolicy, folder: Path) -> dict[str, Tensor]:
    policy.save(folder)
    sampler = json.loads((folder / "tinker.json").read_text())["sampler"]
    return read_weights(skyrl.adapter(sampler, folder / "adapter"))


def samples(policy: TinkerPolicy) -> list[Sample]:
    """Rows of unequal length, so that a mean over rows is not a sum."""
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(256, (4 + 3 * i,), generator=generator).tolist() for i in range(4)]
    pairs = [(tuple(row[: 2 + i]), tuple(row[2 + i :])) for i, row in enumerate(ids)]
    return [
        Sample(prompt, tokens, tuple(logprobs), float(i % 2), group=0, version=policy.version, agent=CONVERSATION)
        for i, ((prompt, tokens), logprobs) in enumerate(zip(pairs, policy.logprobs(pairs), strict=True))
    ]
