"""Updates by processes that have sharded their policies, beside those of processes that each hold a copy."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from tests.tiny import tiny_model, tiny_tokenizer
from tests.tiny_preset import LEARNER, RECIPE
from waltz_env.agents.layouts import full_policy, lora_policies
from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.algorithms import LoopConfig, SampleConfig, waltz_stages, with_settings
from waltz_env.algorithms.critic import CriticConfig
from waltz_env.algorithms.protocols import STATE, LearnerConfig, Metrics, Sample
from waltz_env.algorithms.registry import ALGORITHMS, algorithm, settings_of
from waltz_env.judges import RefusalJudge
from waltz_env.sharding import whole
from waltz_env.types import CONVERSATION, FEEDBACK, Judgement, NoVerdict, Prompt

Layout = Literal["two adapters", "whole models"]
LAYOUTS: tuple[Layout, ...] = ("two adapters", "whole models")
Case = tuple[str, str, Layout]
"""The name of settings, a share of the rows, and a layout."""

SHARES = {"even": 4, "uneven": 1, "none": 0}
"""How many of the eight rows the first process has; the others have equal shares of the rest."""


def config_of(name: str, **changes: Any) -> LearnerConfig:
    if "critic" in settings_of(ALGORITHMS[name]):
        changes["critic"] = CriticConfig(learning_rate=0.03, epochs=2)
    return algorithm(name, learning_rate=1e-3, beta=0.1, **changes)


RECOMPUTED = "activations computed again"
EXACT = {name: config_of(name, max_grad_norm=math.inf) for name in ALGORITHMS} | {
    RECOMPUTED: config_of("reinforce++", max_grad_norm=math.inf)
}
"""One pass per process, and two processes: the same two numbers are added, and the weights are equal bit for bit."""
ROUNDED = {
    "many passes": config_of("ppo", tokens_per_microbatch=16, old_logprobs="trainer", minibatches=2, epochs=2),
    "few logits": config_of("reinforce++", logits_at_once=261, old_logprobs="trainer"),
}
"""Sums of gradients, their norms and the logits of replicas are rounded in another order."""


def rows() -> list[Sample]:
    """Eight rows of unequal length, of two agents, in groups that any split cuts apart."""
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(256, (count,), generator=generator).tolist())

    return [
        Sample(
            ids(3 + i % 4),
            ids(1 + i % 3),
            (-5.0,) * (1 + i % 3),
            float(i % 3),
            (i % 2, i % 4 // 2),
            0,
            f"agent_{i % 2}",
            state=(float(i % 3),) * len(STATE),
        )
        for i in range(8)
    ]


def share_of(count: int, accelerator: Accelerator) -> list[Sample]:
    if accelerator.is_main_process:
        return rows()[:count]
    return rows()[count:][accelerator.process_index - 1 :: accelerator.num_processes - 1]


def policies_of(layout: Layout, **settings: Any) -> list[LanguageModelPolicy]:
    """The policies of an update each: two adapters on one base, and one whole model that goes on."""
    if layout == "two adapters":
        made = lora_policies(tiny_model(), tiny_tokenizer(), rank=2, **settings)
        return [made[CONVERSATION], made[FEEDBACK]]
    return [full_policy(tiny_model(), tiny_tokenizer(), **settings)] * 2


UNCLIPPED = with_settings(LEARNER, max_grad_norm=math.inf)
ADAPTERS = replace(
    RECIPE,
    stages=waltz_stages(UNCLIPPED, UNCLIPPED, steps=(1, 3), reset_reference=True),
    loop=LoopConfig(games=3, samples=SampleConfig(turns="all")),  # an uneven number of games
    shard=True,
)
WHOLE_MODELS = replace(ADAPTERS, preset="tests.tiny_preset:WHOLE_MODELS")
MORTAL = replace(WHOLE_MODELS, judge="tests.sharded:DYING", loop=replace(WHOLE_MODELS.loop, save_every=1))


def updates(
    layout: Layout,
    config: LearnerConfig,
    count: int,
    accelerator: Accelerator,
    *,
    sharded: bool,
    recomputed: bool = False,
    bf16: bool = False,
) -> tuple[list[Tensor], list[Metrics]]:
    """The weights of all policies after their updates, and the metrics of each."""
    policies = policies_of(layout, gradient_checkpointing=recomputed)
    if sharded:
        for policy in policies:
            policy.shard(bf16=bf16)
    learners = {id(policy): config.build(policy, accelerator) for policy in policies}
    metrics = [learners[id(policy)].update(share_of(count, accelerator)) for policy in policies]
    return [whole(weight) for policy in policies for weight in policy.state_dict().values()], metrics


def compared(cases: Iterable[Case], accelerator: Accelerator) -> dict[Case, Any]:
    """The largest difference between a weight of sharded policies and of replicas, and the metrics of both."""
    results = {}
    for name, share, layout in cases:
        config = (EXACT | ROUNDED)[name]
        update = partial(updates, layout, config, SHARES[share], accelerator, recomputed=name == RECOMPUTED)
        replicas, expected = update(sharded=False)
        shards, metrics = update(sharded=True)
        gaps = [float((a - b).abs().max()) for a, b in zip(replicas, shards, strict=True)]
        results[name, share, layout] = max(gaps), expected, metrics
    return results


def check_compared(results: Mapping[Case, Any], *, processes: int) -> None:
    """That sharded policies have learned what replicas have."""
    for case, (gap, expected, metrics) in results.items():
        allowed = 0.0 if case[0] in EXACT and processes == 2 else 1e-5
        assert gap <= allowed, case
        for ours, theirs in zip(metrics, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5), case


class Dying:
    """A judge that ends the second process of a run without a word, once the path in ``DIES_AFTER`` exists."""

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Sequence[Judgement | NoVerdict]:
        after = os.environ.get("DIES_AFTER")
        if after and os.environ["RANK"] == "1" and Path(after).exists():
            os._exit(int(os.environ.get("DIES_WITH", "0")))
        return RefusalJudge().judge(prompts, responses)


DYING = Dying()
