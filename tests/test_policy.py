from __future__ import annotations

import copy
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents.layouts import full_policy, lora_policies
from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.errors import CheckpointError, UsageError
from waltz_env.types import CONVERSATION, FEEDBACK

Batch = tuple[Tensor, Tensor, Tensor]


def batch(lengths: tuple[int, ...] = (12, 7, 1), seed: int = 0) -> Batch:
    """Left-padded random rows: ids, mask, positions."""
    ids = torch.randint(256, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    mask = torch.tensor([[0] * (max(lengths) - length) + [1] * length for length in lengths])
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)


def train(policy: LanguageModelPolicy, steps: int = 3) -> None:
    """A few real optimizer steps, with a reference forward between forward and backward, as a learner makes them."""
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.03)
    for _ in range(steps):
        loss = policy.logits(*batch(), 4).square().mean()
        policy.logits(*batch(), 4, reference=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        policy.version += 1


def fresh(folder: Path) -> LanguageModelPolicy:
    return lora_policies(tiny_model(), tiny_tokenizer())[CONVERSATION]


def from_trained_adapter(folder: Path) -> LanguageModelPolicy:
    trained = fresh(folder)
    train(trained)
    trained.save(folder)
    return lora_policies(tiny_model(), tiny_tokenizer(), adapters={CONVERSATION: folder})[CONVERSATION]


def whole_model(folder: Path) -> LanguageModelPolicy:
    return full_policy(tiny_model(), tiny_tokenizer())


START = pytest.mark.parametrize("start", [fresh, from_trained_adapter, whole_model])


def logits(policy: LanguageModelPolicy, *, reference: bool = False) -> Tensor:
    with torch.no_grad():
        return policy.logits(*batch(), 12, reference=reference)


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model: torch.nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def test_a_fresh_adapter_is_the_base_model() -> None:
    ids, mask, positions = batch()
    with torch.no_grad():
        base = tiny_model()(ids, attention_mask=mask, position_ids=positions).logits
    assert torch.equal(logits(fresh(Path())), base)


@START
def test_the_policy_starts_as_its_reference(start: Callable[[Path], LanguageModelPolicy], tmp_path: Path) -> None:
    policy = start(tmp_path)
    assert torch.equal(logits(policy), logits(policy, reference=True))


@START
def test_training_moves_the_policy_and_never_its_reference(
    start: Callable[[Path], LanguageModelPolicy], tmp_path: Path
) -> None:
    policy = start(tmp_path)
    before = logits(policy)
    train(policy)
    assert (logits(policy) - before).abs().max() > 0.1
    assert torch.equal(logits(policy, reference=True), before)


@START
def test_a_resumed_policy_goes_on_from_the_same_weights_with_the_same_reference(
    start: Callable[[Path], LanguageModelPolicy], tmp_path: Path
) -> None:
    policy = start(tmp_path)
    train(policy)
    resumed = start(tmp_path / "again")
    resumed.load_state_dict(policy.state_dict())
    assert torch.equal(logits(resumed), logits(policy))
    assert torch.equal(logits(resumed, reference=True), logits(policy, reference=True))


def test_an_adapter_from_a_folder_starts_where_it_was_saved(tmp_path: Path) -> None:
    trained = fresh(tmp_path)
    train(trained)
    trained.save(tmp_path)
    both = lora_policies(tiny_model(), tiny_tokenizer(), adapters={FEEDBACK: tmp_path})
    assert torch.equal(logits(both[FEEDBACK]), logits(trained))
    assert torch.equal(logits(both[FEEDBACK], reference=True), logits(trained))
    assert torch.equal(logits(both[CONVERSATION]), logits(trained, reference=True))


def test_training_one_adapter_leaves_the_base_and_the_other_adapter_as_they_were() -> None:
    policies = lora_policies(tiny_model(), tiny_tokenizer())
    model = policies[CONVERSATION].model
    before = weights(model)
    train(policies[CONVERSATION])
    touched = changed(model, before)
    assert touched
    assert all(f".{CONVERSATION}." in name for name in touched)


def test_gradients_reach_the_right_adapter_whatever_ran_between_forward_and_backward() -> None:
    policies = lora_policies(tiny_model(), tiny_tokenizer())
    loss = policies[CONVERSATION].logits(*batch(), 2).sum()
    logits(policies[FEEDBACK], reference=True)
    logits(policies[FEEDBACK])
    with policies[FEEDBACK].sampling_model(torch.bfloat16):
        pass
    loss.backward()
    with_gradient = [parameter for parameter in policies[CONVERSATION].parameters() if parameter.grad is not None]
    assert len(with_gradient) == len(policies[CONVERSATION].parameters())
    assert all(parameter.grad is None for parameter in policies[FEEDBACK].parameters())


def test_the_reference_gives_no_gradient() -> None:
    policy = fresh(Path())
    assert policy.logits(*batch(), 2).requires_grad
    assert not policy.logits(*batch(), 2, reference=True).requires_grad


@pytest.mark.parametrize(("left", "right"), [(7, 0), (0, 7), (3, 4)])
def test_padding_on_either_side_changes_nothing(left: int, right: int) -> None:
    policy = fresh(Path())
    ids, mask, positions = batch((12, 5))
    alone = policy.logits(ids[1:, 7:], mask[1:, 7:], positions[1:, 7:], 5)[0]
    for padded in (ids, mask, positions):
        padded[1] = torch.nn.functional.pad(padded[1, 7:], (left, right))
    found = policy.logits(ids, mask, positions, 12)[1, left : left + 5]
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)


def test_only_the_last_positions_are_computed_and_they_are_the_same() -> None:
    policy = fresh(Path())
    assert policy.logits(*batch(), 3).shape == (3, 3, len(tiny_tokenizer()))
    torch.testing.assert_close(policy.logits(*batch(), 3), policy.logits(*batch(), 12)[:, -3:])


@START
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_merging_for_sampling_leaves_every_weight_bit_equal(
    start: Callable[[Path], LanguageModelPolicy], tmp_path: Path, dtype: torch.dtype | None
) -> None:
    policy = start(tmp_path)
    train(policy)
    before = weights(policy.model)
    for _ in range(50):
        with policy.sampling_model(dtype):
            pass
    assert changed(policy.model, before) == set()


@START
def test_the_sampling_model_is_the_policy(start: Callable[[Path], LanguageModelPolicy], tmp_path: Path) -> None:
    policy = start(tmp_path)
    train(policy)
    ids, mask, positions = batch()
    with torch.no_grad(), policy.sampling_model() as model:
        merged = model(ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(merged, logits(policy), atol=1e-4, rtol=0)
    assert (merged - logits(policy, reference=True)).abs().max() > 0.1


def test_the_sampling_model_is_never_stale() -> None:
    policy = fresh(Path())
    ids, mask, positions = batch()
    for _ in range(2):
        train(policy, steps=1)
        with torch.no_grad(), policy.sampling_model() as model:
            merged = model(ids, attention_mask=mask, position_ids=positions).logits
        torch.testing.assert_close(merged, logits(policy), atol=1e-4, rtol=0)


def test_the_weights_come_back_after_an_error_while_sampling() -> None:
    policy = fresh(Path())
    train(policy)
    before = weights(policy.model)

    def fail() -> None:
        with policy.sampling_model(torch.bfloat16):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert changed(policy.model, before) == set()


def test_sampling_in_bfloat16_leaves_training_in_float32() -> None:
    policy = whole_model(Path())
    train(policy)
    with policy.sampling_model(torch.bfloat16) as model:
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    train(policy)
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}


def test_adapters_are_float32_on_a_bfloat16_base() -> None:
    policy = lora_policies(tiny_model().bfloat16(), tiny_tokenizer())[CONVERSATION]
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}
    train(policy)
    assert (logits(policy) - logits(policy, reference=True)).abs().max() > 0.1
    with policy.sampling_model() as model:
        assert {tensor.dtype for name, tensor in model.named_parameters() if "lora" not in name} == {torch.bfloat16}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_loads_a_saved_adapter(tmp_path: Path) -> None:
    policy = fresh(tmp_path)
    train(policy)
    policy.save(tmp_path)
    ids, mask, positions = batch()
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
    with torch.no_grad():
        output = loaded(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(output, logits(policy))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("again", [False, True], ids=["fresh", "begun from an adapter"])
def test_an_adapter_loads_from_any_folder_with_its_tokenizer(
    again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("work", "elsewhere", "first"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    tiny_model().save_pretrained("base")
    base, adapters = AutoModelForCausalLM.from_pretrained("base"), {}
    if again:
        fresh(tmp_path).save(tmp_path / "first")
        adapters = {CONVERSATION: tmp_path / "first"}
    policy = lora_policies(base, tiny_tokenizer(), adapters=adapters)[CONVERSATION]
    train(policy)
    policy.save("adapter")
    monkeypatch.chdir(tmp_path / "elsewhere")
    ids, mask, positions = batch()
    loaded = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "work" / "adapter"))
    with torch.no_grad():
        output = loaded(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(output, logits(policy))
    assert AutoTokenizer.from_pretrained(tmp_path / "work" / "adapter").chat_template == tiny_tokenizer().chat_template


def test_an_adapter_on_a_model_of_the_hub_names_the_hub(tmp_path: Path) -> None:
    model = tiny_model()
    model.name_or_path = "meta-llama/Llama-3.1-8B-Instruct"
    lora_policies(model, tiny_tokenizer())[CONVERSATION].save(tmp_path, tokenizer=False)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == model.name_or_path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


@START
def test_saved_files_can_be_read_by_whoever_can_read_new_files(
    start: Callable[[Path], LanguageModelPolicy], tmp_path: Path
) -> None:
    policy = start(tmp_path / "start")
    policy.save(tmp_path / "saved")
    policy.save_merged(tmp_path / "merged")
    (tmp_path / "new").touch()
    files = [path for folder in ("saved", "merged") for path in (tmp_path / folder).iterdir()]
    assert {path.stat().st_mode for path in files} == {(tmp_path / "new").stat().st_mode}


@START
def test_transformers_loads_a_merged_model(start: Callable[[Path], LanguageModelPolicy], tmp_path: Path) -> None:
    policy = start(tmp_path / "start")
    train(policy)
    policy.save_merged(tmp_path)
    ids, mask, positions = batch()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        output = loaded(ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(output, logits(policy), atol=1e-4, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tiny_tokenizer().chat_template


def test_a_merged_model_is_written_in_the_dtype_asked_for(tmp_path: Path) -> None:
    fresh(tmp_path).save_merged(tmp_path, dtype=torch.bfloat16)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16


def test_state_holds_the_trainable_weights_alone() -> None:
    policy = fresh(Path())
    state = policy.state_dict()
    assert len(state) == len(policy.parameters()) == 2 * 7 * 2  # A and B of seven projections in two layers
    assert not any(CONVERSATION in name for name in state)
    assert set(whole_model(Path()).state_dict()) == {name for name, _ in tiny_model().named_parameters()}


def test_a_state_that_does_not_fit_is_refused_whole() -> None:
    policy = fresh(Path())
    before = weights(policy.model)
    state = copy.deepcopy(policy.state_dict())
    missing = dict(list(state.items())[1:])
    other_rank = lora_policies(tiny_model(), tiny_tokenizer(), rank=4)[CONVERSATION].state_dict()
    for wrong in (missing, state | {"stranger": torch.zeros(1)}, other_rank):
        with pytest.raises(CheckpointError, match="do not fit"):
            policy.load_state_dict(wrong)
    assert changed(policy.model, before) == set()


def test_the_seed_sets_the_adapters_and_leaves_the_global_stream_alone() -> None:
    stream = torch.random.get_rng_state()
    first, same, other = (lora_policies(tiny_model(), tiny_tokenizer(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), stream)
    factors = [policies[CONVERSATION].parameters()[0] for policies in (first, same, other)]
    assert torch.equal(factors[0], factors[1])
    assert not torch.equal(factors[0], factors[2])
    assert not torch.equal(factors[0], first[FEEDBACK].parameters()[0])


def test_roles_may_have_models_of_their_own() -> None:
    policies = {CONVERSATION: full_policy(tiny_model(0), tiny_tokenizer()), FEEDBACK: fresh(Path())}
    before = logits(policies[FEEDBACK])
    train(policies[CONVERSATION])
    assert torch.equal(logits(policies[FEEDBACK]), before)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_a_policy_over_a_shared_weight_is_refused() -> None:
    with pytest.raises(UsageError, match="lm_head shares its weight"):
        lora_policies(tiny_model(), tiny_tokenizer(), target_modules=["q_proj", "lm_head"])


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_a_target_that_is_no_linear_layer_is_refused() -> None:
    with pytest.raises(UsageError, match="embed_tokens is not a plain linear layer"):
        lora_policies(tiny_model(), tiny_tokenizer(), target_modules=["embed_tokens"])


def test_a_policy_needs_a_temperature_above_zero() -> None:
    with pytest.raises(UsageError, match=r"above 0; got 0\.0"):
        full_policy(tiny_model(), tiny_tokenizer(), temperature=0.0)


def test_a_model_that_is_no_decoder_is_refused() -> None:
    config = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=300)
    with pytest.raises(UsageError, match="takes no position_ids, logits_to_keep"):
        full_policy(T5ForConditionalGeneration(config), tiny_tokenizer())


def test_an_adapter_must_have_a_name_and_a_folder_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"got \['judge'\]"):
        lora_policies(tiny_model(), tiny_tokenizer(), adapters={"judge": tmp_path})
    with pytest.raises(UsageError, match="holds no adapter_config.json"):
        lora_policies(tiny_model(), tiny_tokenizer(), adapters={FEEDBACK: tmp_path})


def test_the_old_name_of_the_class_still_works_and_says_so() -> None:
    with pytest.warns(DeprecationWarning, match="LanguageModelPolicy"):
        assert import_module("waltz_env.agents").Policy is LanguageModelPolicy
