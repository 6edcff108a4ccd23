"""A stage with a reference of its own: the KL penalty is taken to the weights that the stage starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.test_trainer import BOTH, FEEDBACK_ONLY, LEARNER, forget_after, metrics_of, pair, run, weights
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents import LanguageModelPolicy, full_policy, lora_policies
from waltz_env.algorithms import Stage
from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.training.learners import check_trainable
from waltz_env.errors import CheckpointError, UsageError
from waltz_env.types import CONVERSATION, FEEDBACK

IDS = torch.tensor([[40, 41, 42, 43, 44]])


def adapter(folder: Path) -> LanguageModelPolicy:
    return lora_policies(tiny_model(), tiny_tokenizer(), rank=4)[CONVERSATION]


def adapter_from_a_folder(folder: Path) -> LanguageModelPolicy:
    trained = adapter(folder)
    disturb(trained)
    trained.save(folder)
    return lora_policies(tiny_model(), tiny_tokenizer(), adapters={CONVERSATION: folder})[CONVERSATION]


def whole_model(folder: Path) -> LanguageModelPolicy:
    return full_policy(tiny_model(), tiny_tokenizer())


STARTS = [adapter, adapter_from_a_folder, whole_model]


def disturb(policy: LanguageModelPolicy) -> None:
    generator = torch.Generator().manual_seed(policy.version)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    policy.version += 1


def logits(policy: LanguageModelPolicy, *, reference: bool = False) -> Tensor:
    ones = torch.ones_like(IDS)
    return policy.logits(IDS, ones, ones.cumsum(1) - 1, 3, reference=reference).detach()


@pytest.mark.parametrize("start", STARTS)
def test_the_reference_is_what_the_policy_was_at_the_reset_however_it_moves_on(
    start: Callable[[Path], LanguageModelPolicy], tmp_path: Path
) -> None:
    policy = start(tmp_path)
    first = logits(policy, reference=True)
    for _ in range(2):  # a second reset replaces the first one
        disturb(policy)
        there = logits(policy)
        policy.reset_reference(policy.state_dict())
        disturb(policy)
        assert torch.equal(logits(policy, reference=True), there)
        assert not torch.allclose(logits(policy), there)
    policy.reset_reference(None)
    assert torch.equal(logits(policy, reference=True), first)


@pytest.mark.parametrize("start", STARTS)
def test_a_reset_changes_neither_the_policy_nor_what_it_trains_and_saves(
    start: Callable[[Path], LanguageModelPolicy], tmp_path: Path
) -> None:
    policy = start(tmp_path)
    disturb(policy)
    before, names, kept = logits(policy), list(policy.state_dict()), weights(policy)
    parameters = [id(parameter) for parameter in policy.parameters()]
    policy.reset_reference(policy.state_dict())
    assert torch.equal(logits(policy), before)
    assert list(policy.state_dict()) == names
    assert torch.equal(weights(policy), kept)
    assert [id(parameter) for parameter in policy.parameters()] == parameters
    assert all(parameter.requires_grad for parameter in policy.parameters())
    with policy.sampling_model() as model:
        plain = model(input_ids=IDS).logits[:, -3:]
    assert torch.allclose(plain, before, atol=1e-5)


def test_policies_that_share_a_reference_keep_theirs_when_another_one_resets() -> None:
    reference = tiny_model()
    first, second = (full_policy(tiny_model(), tiny_tokenizer(), reference=reference) for _ in range(2))
    before = logits(second, reference=True)
    disturb(first)
    first.reset_reference(first.state_dict())
    assert torch.equal(logits(second, reference=True), before)


def test_a_state_of_another_policy_is_refused() -> None:
    policy = lora_policies(tiny_model(), tiny_tokenizer(), rank=4)[CONVERSATION]
    other = lora_policies(tiny_model(), tiny_tokenizer(), rank=2)[CONVERSATION]
    with pytest.raises(CheckpointError, match="do not fit the policy"):
        policy.reset_reference(other.state_dict())


@pytest.mark.parametrize("resets", [True, False])
def test_a_stage_that_resets_the_reference_begins_without_divergence(tmp_path: Path, resets: bool) -> None:
    run(tmp_path, [FEEDBACK_ONLY, replace(BOTH, steps=1, reset_reference=resets)])
    *_, line = metrics_of(tmp_path)
    assert line["conversation_0/kl"] == pytest.approx(0, abs=1e-6)  # it has not learned yet
    assert (line["feedback_0/kl"] == pytest.approx(0, abs=1e-6)) == resets


@pytest.mark.parametrize("interrupted_after", [(2,), (3,), (5,), (3, 4), (3, 5)])
def test_interrupted_training_continues_with_the_reference_of_its_stage(
    tmp_path: Path, interrupted_after: tuple[int, ...]
) -> None:
    stages = [FEEDBACK_ONLY, replace(BOTH, reset_reference=True)]
    whole = run(tmp_path / "whole", stages)
    run(tmp_path / "parts", stages)
    for step in interrupted_after:  # the second time it continues from a checkpoint of the continued run
        forget_after(tmp_path / "parts", step)
        continued = run(tmp_path / "parts", stages, resume=True)
    for name in whole:
        assert torch.equal(weights(whole[name].policy), weights(continued[name].policy))
    kl = [[line["feedback_0/kl"] for line in metrics_of(tmp_path / part)] for part in ("whole", "parts")]
    assert kl[0] == kl[1]


def test_a_later_stage_without_a_reset_has_the_first_reference_again(tmp_path: Path) -> None:
    second = replace(FEEDBACK_ONLY, name="second", reset_reference=True)
    third = replace(FEEDBACK_ONLY, name="third")
    agents = run(tmp_path, [FEEDBACK_ONLY, second, third])
    base = logits(pair()[FEEDBACK].policy)  # a new adapter is the base model
    assert torch.equal(logits(agents[FEEDBACK].policy, reference=True), base)


def test_a_policy_that_cannot_reset_its_reference_is_refused_before_training() -> None:
    agent = pair()[FEEDBACK]
    agent.policy = ToyPolicy(torch.zeros(1, 2))  # type: ignore[assignment]  # an agent of somebody else's
    stage = Stage("s", 1, {FEEDBACK: LEARNER}, reset_reference=True)
    with pytest.raises(UsageError, match=r"'s' resets the reference .* feedback_0, a ToyPolicy, has no method"):
        check_trainable([stage], {FEEDBACK: agent})
    check_trainable([replace(stage, reset_reference=False)], {FEEDBACK: agent})
