from __future__ import annotations

import math

import pytest
import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

from tests.tiny import tiny_model
from waltz_env.agents.sampling import sample
from waltz_env.errors import DivergedError

MODEL = tiny_model()
NO_STOP = [-1]


def uniforms(rows: int, limit: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, limit, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scored(prompt: list[int], tokens: tuple[int, ...], temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities of ``tokens`` after ``prompt``, by one plain forward."""
    with torch.no_grad():
        logits = MODEL(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None]).squeeze(-1)


def test_tokens_follow_the_uniform_numbers_through_the_cumulative_distribution() -> None:
    prompt = [1, 2, 3]
    with torch.no_grad():
        cumulative = MODEL(torch.tensor([prompt])).logits[0, -1].double().softmax(-1).cumsum(-1)
    for token in (0, 1, 57, 260):
        below, above = (float(cumulative[token - 1]) if token else 0.0), float(cumulative[token])
        inside = torch.tensor([[below + 0.01 * (above - below)], [below + 0.99 * (above - below)]], dtype=torch.float64)
        results = sample(MODEL, [prompt, prompt], uniforms=inside, stop_ids=NO_STOP, temperature=1.0)
        assert [result.token_ids for result in results] == [(token,), (token,)]


def test_the_ends_of_the_unit_interval_give_tokens_too() -> None:
    ends = torch.tensor([[0.0], [1 - 2**-53]], dtype=torch.float64)
    first, last = sample(MODEL, [[1], [1]], uniforms=ends, stop_ids=NO_STOP, temperature=1.0)
    assert (first.token_ids, last.token_ids) == ((0,), (260,))


def test_log_probabilities_are_those_of_a_plain_forward_at_the_temperature() -> None:
    prompts = [[7] * 20 + [1], [7] * 20 + [1, 2, 3, 4, 5], [7] * 20 + [9, 9]]  # a shared start, then padding
    for temperature in (0.5, 1.0, 2.0):
        results = sample(MODEL, prompts, uniforms=uniforms(3, 12), stop_ids=NO_STOP, temperature=temperature)
        for prompt, result in zip(prompts, results, strict=True):
            expected = scored(prompt, result.token_ids, temperature)
            torch.testing.assert_close(torch.tensor(result.logprobs), expected, atol=1e-4, rtol=0)


def test_each_row_may_have_its_own_temperature() -> None:
    prompts, numbers = [[1, 2], [3], [4, 5, 6]], uniforms(3, 10)
    temperatures = torch.tensor([0.5, 1.0, 0.0])
    results = sample(MODEL, prompts, uniforms=numbers, stop_ids=NO_STOP, temperature=temperatures)
    for row, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
        temperature = float(temperatures[row])
        torch.testing.assert_close(
            torch.tensor(result.logprobs), scored(prompt, result.token_ids, temperature or 1.0), atol=1e-4, rtol=0
        )
    (greedy,) = sample(MODEL, prompts[2:], uniforms=numbers[2:], stop_ids=NO_STOP, temperature=0.0)
    assert results[2].token_ids == greedy.token_ids


@pytest.mark.parametrize("mass", [1e-6, 0.1, 0.5, 0.9])
def test_top_p_keeps_the_smallest_set_of_tokens_with_that_mass_and_their_proportions(mass: float) -> None:
    with torch.no_grad():
        distribution = MODEL(torch.tensor([[1, 2, 3]])).logits[0, -1].double().softmax(-1)
    ordered, tokens = distribution.sort(descending=True)
    kept = int((ordered.cumsum(-1) < mass).sum()) + 1
    grid = ((torch.arange(2000) + 0.5) / 2000).double()[:, None]
    results = sample(
        MODEL,
        [[1, 2, 3]] * 2000,
        uniforms=grid,
        stop_ids=NO_STOP,
        temperature=1.0,
        top_p=torch.full((2000,), mass),
    )
    drawn = torch.bincount(torch.tensor([result.token_ids[0] for result in results]), minlength=len(distribution))
    expected = torch.zeros_like(distribution).scatter(0, tokens[:kept], ordered[:kept] / ordered[:kept].sum())
    torch.testing.assert_close(drawn / 2000, expected, atol=1e-3, rtol=0, check_dtype=False)


def test_rows_that_end_leave_the_batch_and_the_others_go_on_unchanged() -> None:
    prompts = [[index, 3 * index % 7] for index in range(24)]
    stops = list(range(0, 261, 8))  # one token in eight ends a row
    results = sample(MODEL, prompts, uniforms=uniforms(24, 30), stop_ids=stops, temperature=1.0)
    assert len({len(result.token_ids) for result in results}) > 5
    for prompt, result in zip(prompts, results, strict=True):
        assert result.stopped == (result.token_ids[-1] in stops)
        assert result.stopped or len(result.token_ids) == 30
        assert not set(result.token_ids[:-1]) & set(stops)
        torch.testing.assert_close(torch.tensor(result.logprobs), scored(prompt, result.token_ids), atol=1e-4, rtol=0)


def test_neighbours_and_a_shared_start_do_not_change_what_a_row_says() -> None:
    start = list(range(40))
    prompts = [[*start, 100], [*start, 101, 102, 103], [50], [*start]]
    numbers = uniforms(4, 15)
    together = sample(MODEL, prompts[:2], uniforms=numbers[:2], stop_ids=NO_STOP, temperature=1.0)
    mixed = sample(MODEL, prompts, uniforms=numbers, stop_ids=NO_STOP, temperature=1.0)
    alone = [
        sample(MODEL, [prompt], uniforms=row[None], stop_ids=NO_STOP, temperature=1.0)[0]
        for prompt, row in zip(prompts, numbers, strict=True)
    ]
    assert [result.token_ids for result in mixed] == [result.token_ids for result in alone]
    assert [result.token_ids for result in together] == [result.token_ids for result in alone[:2]]


def test_temperature_zero_takes_the_likeliest_token() -> None:
    prompt = [5, 6, 7]
    (result,) = sample(MODEL, [prompt], uniforms=uniforms(1, 10), stop_ids=NO_STOP, temperature=0.0)
    expected = list(prompt)
    for _ in range(10):
        with torch.no_grad():
            expected.append(int(MODEL(torch.tensor([expected])).logits[0, -1].argmax()))
    assert list(result.token_ids) == expected[3:]
    torch.testing.assert_close(torch.tensor(result.logprobs), scored(prompt, result.token_ids), atol=1e-4, rtol=0)


def test_samples_have_the_frequencies_of_the_distribution() -> None:
    rows = 4000
    with torch.no_grad():
        expected = MODEL(torch.tensor([[1, 2]])).logits[0, -1].softmax(-1)
    results = sample(MODEL, [[1, 2]] * rows, uniforms=uniforms(rows, 1), stop_ids=NO_STOP, temperature=1.0)
    counts = torch.bincount(torch.tensor([result.token_ids[0] for result in results]), minlength=261)
    likely = expected * rows > 20
    deviations = (counts - expected * rows)[likely] / (expected * (1 - expected) * rows)[likely].sqrt()
    assert deviations.abs().max() < 4.5


def test_a_token_that_the_model_rules_out_is_never_sampled_and_harms_nothing() -> None:
    def rule_out(module: torch.nn.Module, arguments: object, output: CausalLMOutputWithPast) -> None:
        assert output.logits is not None
        output.logits[..., 130:] = -torch.inf

    hook = MODEL.register_forward_hook(rule_out)
    results = sample(MODEL, [[1], [2, 3]], uniforms=uniforms(2, 20), stop_ids=NO_STOP, temperature=1.0)
    hook.remove()
    assert all(token < 130 for result in results for token in result.token_ids)
    assert all(logprob > -math.inf for result in results for logprob in result.logprobs)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_one_row_that_is_not_finite_is_enough_for_an_error(value: float) -> None:
    def spoil(module: torch.nn.Module, arguments: object, output: CausalLMOutputWithPast) -> None:
        assert output.logits is not None
        output.logits[1, -1, 7] = value

    hook = MODEL.register_forward_hook(spoil)
    with pytest.raises(DivergedError):
        sample(MODEL, [[1], [2, 3]], uniforms=uniforms(2, 2), stop_ids=NO_STOP, temperature=1.0)
    hook.remove()
