"""The plain model that a policy samples from: it is the policy, whatever happens to the model, and can be kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.test_policy import START, batch, logits, train
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents import policy as policies
from waltz_env.agents.layouts import lora_policies
from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.errors import UsageError
from waltz_env.types import CONVERSATION, FEEDBACK

Start = Callable[[Path], LanguageModelPolicy]


def sampled(policy: LanguageModelPolicy, dtype: torch.dtype | None = None, *, adapter: bool = True) -> Tensor:
    """Logits of the sampling model, (3, 12, V)."""
    ids, mask, positions = batch()
    with torch.no_grad(), policy.sampling_model(dtype, adapter=adapter) as model:
        found: Tensor = model(ids, attention_mask=mask, position_ids=positions).logits
    return found


def kept(policy: LanguageModelPolicy, dtype: torch.dtype | None = None) -> bool:
    """Whether the weights of the sampling model are the same memory each time."""
    with policy.sampling_model(dtype) as model:
        first = [weight.data for weight in model.parameters()]  # while these live, nothing else takes their place
    with policy.sampling_model(dtype) as model:
        second = [weight.data for weight in model.parameters()]
    return all(one.data_ptr() == other.data_ptr() for one, other in zip(first, second, strict=True))


def to_bfloat16(policy: LanguageModelPolicy) -> None:
    policy.model.to(torch.bfloat16)


def to_another_weight(policy: LanguageModelPolicy) -> None:
    norm = policy.model.get_submodule("model.norm")
    norm.weight = nn.Parameter(2 * norm.weight.detach(), requires_grad=False)


def to_weights_set_in_place(policy: LanguageModelPolicy) -> None:
    with torch.no_grad():
        policy.model.get_submodule("model.norm").weight.mul_(2)


def to_another_adapter(policy: LanguageModelPolicy) -> None:
    policy.reset_reference(policy.state_dict())
    train(policy)


@pytest.mark.parametrize("change", [to_bfloat16, to_another_weight, to_weights_set_in_place, to_another_adapter])
def test_the_sampling_model_follows_its_model(change: Callable[[LanguageModelPolicy], None]) -> None:
    policy = lora_policies(tiny_model(), tiny_tokenizer())[CONVERSATION]
    train(policy)
    before = sampled(policy)
    change(policy)
    after = sampled(policy)
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, logits(policy), atol=1e-4 if after.dtype == torch.float32 else 0.1, rtol=0)


def test_the_sampling_model_has_no_adapters_and_the_model_keeps_its_own() -> None:
    policy = lora_policies(tiny_model(), tiny_tokenizer())[CONVERSATION]
    names = {name for name, _ in policy.model.named_parameters()}
    with policy.sampling_model() as model:
        plain = {name for name, _ in model.named_parameters()}
    assert plain == {name for name, _ in tiny_model().named_parameters()}
    assert {name for name, _ in policy.model.named_parameters()} == names


@START
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_frozen_policy_is_the_same_and_keeps_what_it_samples_from(
    start: Start, dtype: torch.dtype | None, tmp_path: Path
) -> None:
    policy = start(tmp_path)
    train(policy)
    whole, base, weights = sampled(policy, dtype), sampled(policy, dtype, adapter=False), policy.state_dict()
    policy.freeze(dtype)
    assert kept(policy, dtype)
    for _ in range(2):
        assert torch.equal(sampled(policy, dtype), whole)
        assert torch.equal(sampled(policy, dtype, adapter=False), base)  # in between, and nothing is lost
    torch.testing.assert_close(sampled(policy, torch.float32), logits(policy), atol=1e-4, rtol=0)
    assert policy.state_dict().keys() == weights.keys()
    policy.save(tmp_path / "saved")
    assert any((tmp_path / "saved").iterdir())


def test_both_roles_on_one_base_can_be_frozen_or_one_of_them_trained() -> None:
    roles = lora_policies(tiny_model(), tiny_tokenizer())
    for policy in roles.values():
        train(policy)
    roles[CONVERSATION].freeze()
    before = sampled(roles[CONVERSATION])
    train(roles[FEEDBACK])
    roles[FEEDBACK].freeze()
    assert torch.equal(sampled(roles[CONVERSATION]), before)
    torch.testing.assert_close(sampled(roles[FEEDBACK]), logits(roles[FEEDBACK]), atol=1e-4, rtol=0)
    assert kept(roles[CONVERSATION])
    assert kept(roles[FEEDBACK])


@START
def test_a_frozen_policy_is_neither_trained_nor_loaded(start: Start, tmp_path: Path) -> None:
    policy = start(tmp_path)
    state = policy.state_dict()
    policy.freeze()
    with pytest.raises(UsageError, match="frozen"):
        policy.parameters()
    with pytest.raises(UsageError, match="frozen"):
        policy.load_state_dict(state)
    assert not policy.logits(*batch(), 2).requires_grad


@pytest.mark.parametrize("free", [0, 10_000])
def test_where_memory_is_short_nothing_is_kept(
    free: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(policies, "free_memory", lambda device: free)
    policy = lora_policies(tiny_model(), tiny_tokenizer())[CONVERSATION]
    train(policy)
    before = sampled(policy)
    policy.freeze()
    assert "Merged weights are not kept" in caplog.text
    assert not kept(policy)
    assert torch.equal(sampled(policy), before)
