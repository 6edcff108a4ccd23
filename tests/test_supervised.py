from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.learners import random_table
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents.layouts import full_policy, lora_policies
from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.supervised import SupervisedConfig, fit
from waltz_env.errors import UsageError

EXAMPLES = [((1, 2), (3,)), ((4,), (0, 1, 2)), ((2, 2, 2), (1, 0)), ((0,), (4,))] * 5
CONFIG = SupervisedConfig(steps=12, batch_size=4, learning_rate=0.05)


def fitted(config: SupervisedConfig) -> tuple[torch.Tensor, list[float]]:
    policy = ToyPolicy(random_table(5))
    losses = fit(policy, EXAMPLES, config=config)
    return policy.table.detach(), losses


def test_the_loss_is_a_weighted_mean_of_negative_log_likelihoods() -> None:
    policy = ToyPolicy(torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]))
    # After 0: both 1/2. After 1: token 0 has 3/4, token 1 has 1/4. Rows: 1 -> 1 | 0 0 and 0 | 1.
    examples = [((1, 1), (0, 0)), ((0,), (1,))]
    (loss,) = fit(policy, examples, config=SupervisedConfig(steps=1, batch_size=2, prompt_weight=0.5))
    expected = (0.5 * math.log(4) + math.log(4 / 3) + math.log(2) + math.log(2)) / 3.5
    assert loss == pytest.approx(expected, rel=1e-6)


def test_without_a_prompt_weight_the_prompt_teaches_nothing() -> None:
    policy = ToyPolicy(torch.zeros(5, 5))
    fit(policy, [((1, 2, 3), (4,))], config=SupervisedConfig(steps=3, batch_size=1))
    assert policy.table.detach()[1].tolist() == [0.0] * 5
    assert policy.table.detach()[3].argmax() == 4


@pytest.mark.parametrize(("prompt_weight", "kept"), [(0.0, 4), (0.5, 6)])
def test_logits_are_computed_only_where_there_is_something_to_learn(prompt_weight: float, kept: int) -> None:
    class Counting(ToyPolicy):
        def logits(
            self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, keep: int, *, reference: bool = False
        ) -> torch.Tensor:
            asked.append(keep)
            return super().logits(ids, mask, positions, keep, reference=reference)

    asked: list[int] = []
    examples = [((1, 2, 3), (0, 4, 1)), ((1, 2, 3, 4), (0, 2))]
    fit(
        Counting(random_table(5)), examples, config=SupervisedConfig(steps=1, batch_size=2, prompt_weight=prompt_weight)
    )
    assert asked == [kept]


def test_a_real_model_learns_its_examples_bare_and_as_a_policy() -> None:
    examples = [((10, 20), (30, 31)), ((11, 21, 22), (32, 33, 34))]
    config = SupervisedConfig(steps=30, batch_size=2, learning_rate=1e-2)
    bare = fit(tiny_model(), examples, config=config)
    assert bare[-1] < 0.1 * bare[0]
    as_policy = fit(full_policy(tiny_model(), tiny_tokenizer()), examples, config=config)
    assert as_policy == pytest.approx(bare, rel=1e-4)
    adapters = lora_policies(tiny_model(), tiny_tokenizer(), rank=4, alpha=8)
    assert fit(next(iter(adapters.values())), examples, config=config)[-1] < 0.5 * bare[0]


@pytest.mark.parametrize("prompt_weight", [0.0, 0.5])
def test_padding_leaves_the_loss_as_it_is(prompt_weight: float) -> None:
    short, long = ((1, 2), (3, 4)), (tuple(range(9)), tuple(range(20, 29)))
    config = SupervisedConfig(steps=1, prompt_weight=prompt_weight)
    together = fit(tiny_model(), [short, long], config=replace(config, batch_size=2))[0]
    alone = [fit(tiny_model(), [example], config=replace(config, batch_size=1))[0] for example in (short, long)]
    weights = [prompt_weight * 1 + 2, prompt_weight * 8 + 9]
    assert together == pytest.approx(
        sum(w * loss for w, loss in zip(weights, alone, strict=True)) / sum(weights), rel=1e-5
    )


def test_microbatches_do_not_change_the_result() -> None:
    whole, losses = fitted(CONFIG)
    cut, cut_losses = fitted(replace(CONFIG, tokens_per_microbatch=1))
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-5)
    assert cut_losses == pytest.approx(losses, rel=1e-4)


def test_a_seed_reproduces_and_another_does_not() -> None:
    assert torch.equal(fitted(CONFIG)[0], fitted(CONFIG)[0])
    assert fitted(CONFIG)[1] != fitted(replace(CONFIG, seed=1))[1]


def test_the_learning_rate_ends_at_nothing() -> None:
    tables = []
    policy = ToyPolicy(random_table(5))
    fit(policy, EXAMPLES, config=CONFIG, on_step=lambda step, loss: tables.append(policy.table.detach().clone()))
    moved = [(after - before).abs().max() for before, after in pairwise(tables)]
    assert moved[-1] < 0.3 * moved[0]


@settings(max_examples=25)
@given(st.integers(1, 7), st.integers(1, 30))
def test_every_example_is_used_once_an_epoch(batch_size: int, count: int) -> None:
    """Each example's target is a token of its own, and one epoch of tiny steps moves each of these rows once."""
    policy = ToyPolicy(torch.zeros(count, count))
    steps = -(-count // batch_size)
    fit(policy, [((i,), (i,)) for i in range(count)], config=SupervisedConfig(steps=steps, batch_size=batch_size))
    diagonal = policy.table.detach().diagonal()
    assert count == 1 or bool((diagonal > 0).all())


def test_progress_is_told_step_by_step() -> None:
    told: list[tuple[int, float]] = []
    losses = fit(
        ToyPolicy(random_table(5)), EXAMPLES, config=CONFIG, on_step=lambda step, loss: told.append((step, loss))
    )
    assert told == list(enumerate(losses, start=1))


@pytest.mark.parametrize("examples", [[], [((), (1,))], [((1,), ())]])
def test_examples_without_tokens_are_refused(examples: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    with pytest.raises(UsageError):
        fit(ToyPolicy(random_table(5)), examples)
