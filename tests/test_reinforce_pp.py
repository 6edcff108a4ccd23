from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from accelerate.accelerator import Accelerator

from tests.learners import random_table, row
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents.layouts import full_policy, lora_policies
from waltz_env.algorithms.batches import collate, completion_logits, token_logprobs
from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.protocols import Learner, Policy, Sample
from waltz_env.algorithms.registry import with_settings
from waltz_env.algorithms.reinforce_pp import ReinforcePPConfig
from waltz_env.errors import CheckpointError, UsageError

CONFIG = with_settings(ReinforcePPConfig(), learning_rate=0.05)


def rows(policy: ToyPolicy, count: int = 8, *, seed: int = 0) -> list[Sample]:
    """Rows of 1 to 4 tokens, rewarded by the share of token 1."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i in range(count):
        prompt = (0,) * (i % 3) + (i % 5,)
        ((tokens, _),) = policy.sample([prompt], 1 + i % 4, generator=generator)
        found.append(row(policy, prompt, tokens, tokens.count(1) / len(tokens), group=str(i % 2)))
    return found


def policy(**changes: float) -> ToyPolicy:
    return ToyPolicy(random_table(5), reference=random_table(5, 1), **changes)


def hf_rows(hf_policy: Policy, lengths: list[tuple[int, int]]) -> list[Sample]:
    """Random tokens with the log-probabilities that the policy gives to each row alone, unpadded."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for i, (p, t) in enumerate(lengths):
        ids = torch.randint(0, 256, (1, p + t), generator=generator)
        with torch.no_grad():
            logits = hf_policy.logits(ids, torch.ones_like(ids), torch.arange(p + t)[None], keep=p + t)
        logprobs = (logits[0, :-1] / hf_policy.temperature).log_softmax(-1)
        chosen = logprobs.gather(-1, ids[0, 1:, None]).squeeze(-1)[p - 1 :]
        tokens = ids[0].tolist()
        found.append(Sample(tuple(tokens[:p]), tuple(tokens[p:]), tuple(chosen.tolist()), float(i % 2), i, 0))
    return found


def test_it_is_a_learner() -> None:
    assert isinstance(CONFIG.build(policy()), Learner)


def test_the_gradient_is_that_of_the_exact_objective() -> None:
    """A uniform policy draws all sequences equally often, so the batch of all of them is the expectation itself."""
    size, length, beta = 3, 2, 0.3
    reference = random_table(size, 1)
    uniform = ToyPolicy(torch.zeros(size, size), reference=reference)
    sequences = list(product(range(size), repeat=length))
    rewards = torch.randn(len(sequences), generator=torch.Generator().manual_seed(2))
    samples = [row(uniform, (0,), tokens, float(r)) for tokens, r in zip(sequences, rewards, strict=True)]

    table = torch.zeros(size, size).requires_grad_()
    objective, advantages = torch.zeros(()), []
    for (first, second), reward in zip(sequences, rewards, strict=True):
        logprobs = torch.stack([table.log_softmax(-1)[0, first], table.log_softmax(-1)[first, second]])
        fixed = torch.stack([reference.log_softmax(-1)[0, first], reference.log_softmax(-1)[first, second]])
        penalty = logprobs - fixed
        objective = objective + logprobs.sum().exp() * (reward - beta * penalty.sum())
        advantages += [reward - beta * penalty.sum(), reward - beta * penalty[1]]
    deviation = torch.stack(advantages).detach().std(correction=0)
    exact = torch.autograd.grad(objective, table)[0] / deviation / length  # eq. 4 is a mean over each sequence

    with_settings(ReinforcePPConfig(), beta=beta, max_grad_norm=1e9).build(uniform).update(samples)
    assert uniform.table.grad is not None
    torch.testing.assert_close(uniform.table.grad, -exact, rtol=1e-4, atol=1e-6)


def test_the_ratio_is_that_of_the_distributions_at_the_temperature() -> None:
    for sampler, learner in [(0.7, 0.7), (1.0, 0.5)]:
        metrics = CONFIG.build(policy(temperature=learner)).update(rows(policy(temperature=sampler)))
        assert (metrics["ratio_max"] < 1 + 1e-5) == (sampler == learner)


def test_an_update_favours_rewarded_tokens() -> None:
    learner = policy()
    samples = [row(learner, (0,), (1,), 1.0), row(learner, (0,), (2,), 0.0)]
    before = [learner.logprobs((0,), (token,))[0] for token in (1, 2)]
    CONFIG.build(learner).update(samples)
    after = [learner.logprobs((0,), (token,))[0] for token in (1, 2)]
    assert after[0] > before[0]
    assert after[1] < before[1]


@pytest.mark.parametrize(("place", "baseline"), [("reward", "none"), ("loss", "group")])
def test_the_penalty_pulls_towards_the_reference(place: str, baseline: str) -> None:
    learner = policy()
    config = with_settings(CONFIG, learning_rate=0.1, beta=10.0, kl_in=place, baseline=baseline)
    update = config.build(learner).update
    kl = [update(rows(learner, 64, seed=seed))["kl_k3"] for seed in range(30)]
    assert kl[-1] < 0.2 * kl[0]


def test_microbatches_do_not_change_the_update() -> None:
    tables = []
    for budget in (1, 10, 10_000):
        learner = policy()
        config = with_settings(CONFIG, tokens_per_microbatch=budget, epochs=2, minibatches=2)
        config.build(learner).update(rows(learner))
        tables.append(learner.table.detach())
    torch.testing.assert_close(tables[0], tables[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(tables[1], tables[2], rtol=0, atol=1e-6)


def test_aggregations_differ_where_lengths_do() -> None:
    tables = []
    for aggregation in ("sequence", "token"):
        learner = policy()
        with_settings(CONFIG, aggregation=aggregation).build(learner).update(rows(learner))
        assert learner.table.grad is not None
        tables.append(learner.table.grad)
    assert not torch.allclose(tables[0], tables[1], atol=1e-3)


def test_equal_rewards_are_skipped_and_counted() -> None:
    learner = policy()
    samples = [replace(sample, reward=0.1) for sample in rows(learner)]
    metrics = CONFIG.build(learner).update(samples)
    assert metrics["skipped"] == 1
    assert metrics["reward_mean"] == pytest.approx(0.1)
    assert learner.version == 0
    assert torch.equal(learner.table, random_table(5))
    assert with_settings(CONFIG, min_reward_std=0.0).build(learner).update(samples)["skipped"] == 0


def test_a_group_baseline_leaves_only_what_differs_within_a_group() -> None:
    learner = policy()
    config = with_settings(CONFIG, baseline="group", beta=0.0)
    between = [row(learner, (0,), (t,), float(t), group=str(t)) for t in (0, 1, 2)]
    assert config.build(learner).update(between)["skipped"] == 1
    within = [row(learner, (0,), (t,), r, group=g) for t, r, g in [(1, 1.0, "a"), (2, 0.0, "a"), (3, 9.0, "b")]]
    before = learner.table.detach().clone()
    assert config.build(learner).update(within)["skipped"] == 0
    moved = (learner.table.detach() - before)[0].sign().tolist()
    assert moved[1] == 1
    assert moved[2] == -1


def test_no_rows_make_no_update() -> None:
    learner = policy()
    assert CONFIG.build(learner).update([]) == {"rows": 0, "tokens": 0, "skipped": 1}
    assert learner.version == 0


def test_versions_count_updates_and_tell_stale_rows() -> None:
    learner = policy()
    stale = rows(learner)
    algorithm = CONFIG.build(learner)
    assert algorithm.update(stale)["staleness"] == 0
    assert learner.version == 1
    assert algorithm.update(stale)["staleness"] == 1


def test_without_a_penalty_the_reference_is_never_asked() -> None:
    class NoReference(ToyPolicy):
        def logits(self, *args: object, reference: bool = False, **kwargs: object) -> torch.Tensor:
            assert not reference
            return super().logits(*args, **kwargs)  # type: ignore[arg-type]

    learner = NoReference(random_table(5))
    metrics = with_settings(CONFIG, beta=0.0).build(learner).update(rows(learner))
    assert metrics["skipped"] == 0
    assert "kl" not in metrics


def test_the_trainer_can_recompute_what_the_sampler_recorded() -> None:
    learner = policy()
    shifted = [replace(sample, logprobs=tuple(p - 0.25 for p in sample.logprobs)) for sample in rows(learner)]
    metrics = with_settings(CONFIG, old_logprobs="trainer").build(learner).update(shifted)
    assert metrics["sampler_gap"] == pytest.approx(0.25, abs=1e-6)
    assert metrics["sampler_gap_max"] == pytest.approx(0.25, abs=1e-6)
    assert metrics["mismatch_kl"] == pytest.approx(math.exp(0.25) - 1 - 0.25, abs=1e-6)
    assert metrics["ratio_max"] == pytest.approx(1, abs=1e-6)


def test_truncated_importance_weights_multiply_each_tokens_gradient() -> None:
    """Row 0 was sampled with half the trainer's probability (weight 2, cut to 1.5), row 1 with twice (weight 0.5)."""
    gradients = []
    for cap in (None, 1.5):
        learner = ToyPolicy(torch.zeros(3, 3))
        old = math.log(1 / 3)
        samples = [
            Sample((0,), (1,), (old - math.log(2),), 1.0, "", 0),
            Sample((2,), (2,), (old + math.log(2),), 0.0, "", 0),
        ]
        config = with_settings(CONFIG, beta=0.0, old_logprobs="trainer", max_grad_norm=1e9)
        if cap is not None:
            config = with_settings(config, sampler_correction="truncated", sampler_cap=cap)
        metrics = config.build(learner).update(samples)
        assert learner.table.grad is not None
        gradients.append(learner.table.grad.clone())
        if cap is not None:
            assert metrics["sampler_weight"] == pytest.approx((1.5 + 0.5) / 2, abs=1e-6)
    plain, corrected = gradients
    # Advantages are +1 and -1; d(-log pi) of the uniform softmax is p - onehot; the mean is over two rows.
    torch.testing.assert_close(plain[0], torch.tensor([1, -2, 1]) / 6)
    torch.testing.assert_close(corrected[0], 1.5 * plain[0])
    torch.testing.assert_close(corrected[2], 0.5 * plain[2])


def test_several_epochs_move_the_ratio() -> None:
    learner = policy()
    metrics = with_settings(CONFIG, epochs=4).build(learner).update(rows(learner))
    assert metrics["ratio_max"] > 1.05
    assert learner.version == 1


def test_the_schedule_is_over_updates() -> None:
    learner = policy()
    update = with_settings(CONFIG, schedule="linear", total_steps=2).build(learner).update
    assert [update(rows(learner))["learning_rate"] for _ in range(3)] == [0.05, 0.025, 0.0]


def test_a_padded_batch_gives_each_row_the_logprobs_it_has_alone() -> None:
    hf_policy = full_policy(tiny_model(), tiny_tokenizer(), temperature=0.7)
    samples = hf_rows(hf_policy, [(3, 5), (17, 2), (1, 9), (8, 1)])
    batch = collate(samples, range(4), device=hf_policy.device)
    with torch.no_grad():
        found = token_logprobs(completion_logits(hf_policy, batch), batch.targets[batch.mask])
    expected = [logprob for row in batch.rows for logprob in samples[row].logprobs]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=2e-5)


def test_a_real_model_with_adapters_starts_at_ratio_1_and_kl_0_and_learns() -> None:
    policies = lora_policies(tiny_model(), tiny_tokenizer(), rank=4, alpha=8)
    trained, other = policies.values()
    untouched = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    samples = hf_rows(trained, [(3, 5), (7, 2), (1, 4), (8, 1)])
    algorithm = with_settings(CONFIG, learning_rate=1e-3, old_logprobs="trainer").build(trained)
    first = algorithm.update(samples)
    assert first["ratio_max"] == pytest.approx(1, abs=1e-6)
    assert first["kl_k3"] == pytest.approx(0, abs=1e-8)
    assert first["sampler_gap"] < 1e-5
    for _ in range(5):
        last = algorithm.update(samples)
    assert last["kl_k3"] > 1e-6
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in other.state_dict().items())


def test_a_state_of_other_parameters_is_refused() -> None:
    learner, larger = policy(), ToyPolicy(random_table(6))
    algorithm = CONFIG.build(learner)
    algorithm.update(rows(learner))
    with pytest.raises(CheckpointError, match="shapes"):
        CONFIG.build(larger).load_state_dict(algorithm.state_dict())


def test_policies_that_cannot_learn_are_refused() -> None:
    half = ToyPolicy(random_table(5).bfloat16())
    with pytest.raises(UsageError, match="float32"):
        CONFIG.build(half)
    with pytest.raises(UsageError, match="temperature"):
        CONFIG.build(policy(temperature=0.0))
    frozen = policy()
    frozen.parameters = list  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="no trainable parameters"):
        CONFIG.build(frozen)


def test_an_accelerator_of_one_process_changes_nothing() -> None:
    alone, accelerated = policy(), policy()
    first = CONFIG.build(alone).update(rows(alone))
    second = CONFIG.build(accelerated, Accelerator(cpu=True)).update(rows(accelerated))
    assert first == second
    assert torch.equal(alone.table, accelerated.table)
