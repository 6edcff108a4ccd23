from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from accelerate import Accelerator
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MixtralConfig,
    PreTrainedModel,
    Qwen2Config,
)

from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents.layouts import full_policy, lora_policies
from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.algorithms import ReinforcePPConfig, SurrogateConfig
from waltz_env.algorithms.batches import MicroBatch, collate, token_entropy, token_logprobs
from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.protocols import Sample
from waltz_env.algorithms.supervised import SupervisedConfig, fit
from waltz_env.algorithms.token_scores import token_scores
from waltz_env.errors import UsageError
from waltz_env.types import CONVERSATION, FEEDBACK

VOCABULARY = 261
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 257,
    "pad_token_id": 256,
}
# What the last four do with logits is strong enough here that leaving it out shows.
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2, tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=2),
    "gpt2, with dropout": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=None, eos_token_id=257
    ),
    "gemma2, capped": Gemma2Config(**SIZES, final_logit_softcapping=1.5),
    "granite, divided": GraniteConfig(**SIZES, logits_scaling=3.0),
    "cohere, multiplied": CohereConfig(**SIZES, logit_scale=0.4),
}
ROWS = ((9, 6), (4, 11), (7, 1))  # tokens of each row's prompt and completion
SCORES = (token_logprobs, lambda logits, targets: token_entropy(logits))


def model_of(name: str) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


def with_adapters(model: PreTrainedModel, **options: Any) -> dict[str, LanguageModelPolicy]:
    """Policies of both roles, with adapters that are not zero."""
    policies = lora_policies(model, tiny_tokenizer(), temperature=0.7, **options)
    generator = torch.Generator().manual_seed(0)
    for policy in policies.values():
        for parameter in policy.parameters():
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return policies


def with_adapter(model: PreTrainedModel, **options: Any) -> LanguageModelPolicy:
    return with_adapters(model, **options)[CONVERSATION]


def whole(model: PreTrainedModel, **options: Any) -> LanguageModelPolicy:
    return full_policy(model, tiny_tokenizer(), temperature=0.7, **options)


KINDS = {"adapter": with_adapter, "whole model": whole}
# The adapters of this package are on linear layers, and the experts of Mixtral are not.
CASES = [(name, kind) for name in CONFIGS for kind in KINDS if (name, kind) != ("mixtral", "adapter")]
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # PEFT on GPT-2


def samples() -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    ids = [[torch.randint(256, (n,), generator=generator).tolist() for n in row] for row in ROWS]
    return [Sample(tuple(p), tuple(t), (-5.0,) * len(t), float(i), i, 0) for i, (p, t) in enumerate(ids)]


def batch() -> MicroBatch:
    return collate(samples(), range(len(ROWS)), device=torch.device("cpu"))


def learned(
    policy: LanguageModelPolicy, logits_at_once: int, *, between: Callable[[], object] = lambda: None
) -> tuple[list[Tensor], list[Tensor]]:
    """Log-probabilities and entropy of the sampled tokens, (M,) each, and the gradients of a weighted sum."""
    rows = batch()
    logprobs, entropy = token_scores(policy, rows, scores=SCORES, logits_at_once=logits_at_once)
    weights = torch.linspace(-1, 1, rows.mask.numel()).view_as(logprobs)
    for parameter in policy.parameters():
        parameter.grad = None
    between()
    (logprobs * weights)[rows.mask].sum().backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.parameters()]
    return [logprobs.detach()[rows.mask], entropy[rows.mask]], gradients


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_parts_give_the_models_own_scores_and_gradients(name: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    policy = KINDS[kind](model_of(name))
    scores, gradients = learned(policy, 10**9)
    assert max(gradient.abs().max() for gradient in gradients) > 0.01
    sizes: list[int] = []
    policy.model.get_output_embeddings().register_forward_hook(lambda module, given, made: sizes.append(made.numel()))
    in_parts, their_gradients = learned(policy, 5 * VOCABULARY)
    assert not caplog.records
    assert_same(in_parts, scores)
    assert_same(their_gradients, gradients)
    # 18 sampled tokens, five at a time, forward and again backward; before them the check of the head, of four tokens.
    assert [size // VOCABULARY for size in sizes] == [4, 4, 5, 5, 5, 3, 3, 5, 5, 5]


def test_logits_of_sampled_tokens_that_fit_are_computed_once() -> None:
    """Three rows of 11 positions, padding and prompts included, have 18 sampled tokens: only their logits count."""
    policy = whole(model_of("llama"))
    expected = learned(policy, 10**9)
    sizes: list[int] = []
    policy.model.get_output_embeddings().register_forward_hook(lambda module, given, made: sizes.append(made.numel()))
    found = learned(policy, 18 * VOCABULARY)
    assert_same(found[0] + found[1], expected[0] + expected[1])
    assert [size // VOCABULARY for size in sizes] == [4, 4, 18]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_reference_is_scored_in_parts_too(name: str, kind: str) -> None:
    policy = KINDS[kind](model_of(name))
    for parameter in policy.parameters():
        parameter.data += 0.01
    rows = batch()
    (expected,) = token_scores(policy, rows, scores=SCORES[:1], logits_at_once=10**9, reference=True)
    (found,) = token_scores(policy, rows, scores=SCORES[:1], logits_at_once=5 * VOCABULARY, reference=True)
    assert_same([found[rows.mask]], [expected[rows.mask]])
    (adapted,) = token_scores(policy, rows, scores=SCORES[:1], logits_at_once=5 * VOCABULARY)
    assert (adapted - expected)[rows.mask].abs().max() > 0.01


@pytest.mark.parametrize(
    ("limit", "checkpointing"), [(5 * VOCABULARY, False), (5 * VOCABULARY, True), (10**9, False), (10**9, True)]
)
def test_gradients_are_the_adapters_own_whatever_ran_before_the_backward_pass(limit: int, checkpointing: bool) -> None:
    targets = ["q_proj", "lm_head"]
    expected = learned(with_adapter(model_of("llama"), target_modules=targets), 10**9)
    policies = with_adapters(model_of("llama"), target_modules=targets, gradient_checkpointing=checkpointing)

    def others() -> None:
        for policy in policies.values():
            token_scores(policy, batch(), scores=SCORES, logits_at_once=1, reference=True)
        token_scores(policies[FEEDBACK], batch(), scores=SCORES, logits_at_once=1)
        with policies[FEEDBACK].sampling_model(torch.bfloat16):
            pass

    found = learned(policies[CONVERSATION], limit, between=others)
    assert_same(found[0], expected[0])
    assert_same(found[1], expected[1])
    assert all(parameter.grad is None for parameter in policies[FEEDBACK].parameters())


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_gradient_checkpointing_changes_nothing_but_what_is_kept(name: str, kind: str) -> None:
    expected = learned(KINDS[kind](model_of(name)), 10**9)
    policy = KINDS[kind](model_of(name), gradient_checkpointing=True)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    for limit in (10**9, 5 * VOCABULARY):
        found = learned(policy, limit)
        assert_same(found[0], expected[0])
        assert_same(found[1], expected[1])
    sizes = []
    for each in (KINDS[kind](model_of(name)), policy):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            token_scores(each, batch(), scores=SCORES[:1], logits_at_once=10**9)
        sizes.append(sum(kept))
    assert sizes[1] < sizes[0] / 2


def test_a_model_on_several_devices_keeps_its_hooks() -> None:
    expected = learned(with_adapter(model_of("gemma2, capped")), 10**9)
    model = model_of("gemma2, capped")
    for module in (model, *model.model.layers):
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    policy = with_adapter(model, gradient_checkpointing=True)
    for limit in (10**9, 5 * VOCABULARY):
        found = learned(policy, limit)
        assert_same(found[0], expected[0])
        assert_same(found[1], expected[1])
    assert all("forward" in module.__dict__ for module in (model, *model.model.layers))


class BiasedByItsInput(LlamaForCausalLM):
    """Its logits depend on the ids, not on hidden states alone."""

    def forward(self, input_ids: Tensor | None = None, **others: Any) -> Any:
        made = super().forward(input_ids=input_ids, **others)
        if input_ids is not None:
            made.logits = made.logits + input_ids[:, -made.logits.shape[1] :, None] % 2 / 100
        return made


class NeedsItsInput(LlamaForCausalLM):
    """Its forward does not work without ids."""

    def forward(self, input_ids: Tensor | None = None, **others: Any) -> Any:
        return super().forward(input_ids=torch.clamp(input_ids, min=0), **others)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(BiasedByItsInput, "do not follow from its last hidden states alone"), (NeedsItsInput, "TypeError")],
)
def test_a_head_that_cannot_work_by_itself_is_never_used_so(
    kind: type[LlamaForCausalLM], reason: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = inspect.signature(LlamaForCausalLM.forward)  # names the arguments that a policy looks for
    monkeypatch.setattr(kind.forward, "__signature__", signature, raising=False)
    model = kind(LlamaConfig(**SIZES)).eval()
    policy = full_policy(model, tiny_tokenizer())
    expected = learned(policy, 10**9)
    for _ in range(2):
        found = learned(policy, 5 * VOCABULARY)
        assert all(
            torch.equal(one, other) for one, other in zip(found[0] + found[1], expected[0] + expected[1], strict=True)
        )
    (record,) = caplog.records
    assert reason in record.getMessage()
    assert "lower tokens_per_microbatch" in record.getMessage()


def test_a_policy_that_only_gives_logits_still_learns() -> None:
    policy = ToyPolicy(torch.zeros(VOCABULARY, VOCABULARY), temperature=0.7)
    rows = batch()
    (few,) = token_scores(policy, rows, scores=SCORES[:1], logits_at_once=1)
    (all_at_once,) = token_scores(policy, rows, scores=SCORES[:1], logits_at_once=10**9)
    assert torch.equal(few, all_at_once)


@pytest.mark.parametrize("old_logprobs", ["sampler", "trainer"])
def test_an_update_in_parts_is_the_same_update(old_logprobs: Literal["sampler", "trainer"]) -> None:
    weights, metrics = [], []
    for limit in (10**9, 5 * VOCABULARY):
        policy = with_adapter(model_of("gemma2, capped"))
        surrogate = SurrogateConfig(learning_rate=1e-2, old_logprobs=old_logprobs, epochs=2, logits_at_once=limit)
        learner = ReinforcePPConfig(surrogate=surrogate).build(policy, Accelerator(cpu=True))
        metrics.append(learner.update(samples()))
        weights.append([parameter.detach() for parameter in policy.parameters()])
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-3)
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


ONE_STEP = SupervisedConfig(steps=1, batch_size=3)


@pytest.mark.parametrize("prompt_weight", [0.0, 0.5])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_supervised_step_in_parts_is_the_same_step(name: str, kind: str, prompt_weight: float) -> None:
    """At a temperature that supervised learning leaves alone."""
    examples = [(sample.prompt_ids, sample.token_ids) for sample in samples()]
    losses: list[float] = []
    gradients: list[list[Tensor]] = []
    for limit in (10**9, 5 * VOCABULARY):
        policy = KINDS[kind](model_of(name))
        losses += fit(policy, examples, config=replace(ONE_STEP, prompt_weight=prompt_weight, logits_at_once=limit))
        kept = [parameter.grad for parameter in policy.parameters()]
        gradients.append([gradient for gradient in kept if gradient is not None])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert max(gradient.abs().max() for gradient in gradients[0]) > 0.01
    assert_same(*gradients)


@pytest.mark.parametrize(("prompt_weight", "sizes"), [(0.0, [5, 5, 5, 3]), (0.5, [5] * 7)])
def test_supervised_steps_never_hold_more_logits_than_allowed(prompt_weight: float, sizes: list[int]) -> None:
    """18 tokens of targets, or with them the 17 of the prompts that anything precedes, five at a time."""
    policy = with_adapter(model_of("llama"))
    made: list[int] = []
    policy.model.get_output_embeddings().register_forward_hook(lambda module, given, out: made.append(out.numel()))
    config = replace(ONE_STEP, prompt_weight=prompt_weight, logits_at_once=5 * VOCABULARY)
    fit(policy, [(sample.prompt_ids, sample.token_ids) for sample in samples()], config=config)
    computed = [size // VOCABULARY for size in made]
    assert computed[:2] == [4, 4]  # the check of the head, of four tokens
    assert computed[2:] == sizes + sizes[::-1]  # forward, and again backward


def test_a_model_without_blocks_refuses_gradient_checkpointing() -> None:
    model = tiny_model()
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(UsageError, match="LlamaForCausalLM does not support gradient checkpointing"):
        full_policy(model, tiny_tokenizer(), gradient_checkpointing=True)
