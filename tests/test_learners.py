"""What holds for every included algorithm."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest
import torch
from accelerate import Accelerator

from tests.learners import toy_config
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents.layouts import lora_policies
from waltz_env.algorithms.probes.conformance import toy_policy, toy_rows
from waltz_env.algorithms.probes.games import final_reward, learn_to_waltz
from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.protocols import STATE, Sample
from waltz_env.algorithms.registry import ALGORITHMS
from waltz_env.testing import learner_test

METRICS = {
    *("rows", "tokens", "reward_mean", "reward_std", "staleness", "skipped"),
    *("kl", "kl_k3", "loss", "entropy", "ratio_mean", "ratio_max", "clip_fraction", "grad_norm", "learning_rate"),
}
OWN_METRICS = {
    "reinforce++-baseline": {"lone_rows"},
    "grpo": {"lone_rows"},
    "dr-grpo": {"lone_rows"},
    "rloo": {"lone_rows"},
    "ppo": {"value_loss", "explained_variance"},
    "mappo": {"value_loss", "explained_variance"},
    "role-baseline": {"baseline"},
}
STILL = (0.0,) * len(STATE)


def kl_from_the_reference(policy: ToyPolicy) -> float:
    """Mean over all last tokens of the exact KL(policy || reference), in nats."""
    ids = torch.arange(len(policy.table))[:, None]
    with torch.no_grad():
        now, then = (
            policy.logits(ids, torch.ones_like(ids), torch.zeros_like(ids), 1, reference=reference).log_softmax(-1)
            for reference in (False, True)
        )
    return float((now.exp() * (now - then)).sum(-1).mean())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_passes_the_learner_test(name: str) -> None:
    learner_test(toy_config(name))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_one_policy_learns_both_roles(name: str) -> None:
    history = learn_to_waltz(toy_config(name), shared=True)
    assert final_reward(history[0]) < 0.65
    assert fmean(final_reward(games) for games in history[-5:]) > 0.9


@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_reports_metrics_by_these_names(name: str) -> None:
    """``learner_test`` looks for them, to check that an algorithm begins at ratio 1 and KL 0."""
    policy = toy_policy()
    metrics = toy_config(name).build(policy).update(toy_rows(policy))
    assert metrics.keys() == METRICS | OWN_METRICS.get(name, set())
    assert (metrics["skipped"], metrics["rows"]) == (0, 12)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_penalty_holds_it_near_the_reference(name: str) -> None:
    distance = {}
    for beta in (0.0, 1.0):
        policy = toy_policy()
        learner = toy_config(name, beta=beta).build(policy)
        for seed in range(15):
            learner.update(toy_rows(policy, seed=seed))
        distance[beta] = kl_from_the_reference(policy)
    assert distance[1.0] < 0.5 * distance[0.0]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_one_agents_rewards_leave_the_advantages_of_the_other_alone(name: str) -> None:
    """Two agents on disjoint tokens of one policy: whatever B is paid, the gradient from A's rows is the same."""
    gradients = []
    for scale in (1.0, 100.0):
        policy = ToyPolicy(torch.zeros(4, 4))
        rows = [
            Sample((prompt,), (token,), policy.logprobs((prompt,), (token,)), reward, agent, 0, agent, state=STILL)
            for agent, prompt, token, reward in [
                ("A", 0, 0, 1.0), ("A", 0, 1, 0.0), ("A", 0, 1, 0.25),
                ("B", 2, 2, 1.0 * scale), ("B", 2, 3, -1.0 * scale), ("B", 2, 3, 0.5 * scale),
            ]
        ]  # fmt: skip
        toy_config(name, max_grad_norm=1e9).build(policy).update(rows)
        assert policy.table.grad is not None
        gradients.append(policy.table.grad[0].clone())
    assert gradients[0].abs().max() > 0.01
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_equal_rewards_teach_nothing(name: str) -> None:
    policy = toy_policy()
    before = policy.table.detach().clone()
    metrics = toy_config(name).build(policy).update([replace(row, reward=0.5) for row in toy_rows(policy)])
    assert metrics["skipped"] == 1
    assert policy.version == 0
    assert torch.equal(policy.table, before)


def test_an_agent_whose_rewards_are_all_equal_is_left_out_of_a_shared_update() -> None:
    policy = ToyPolicy(torch.zeros(4, 4))
    rows = [
        Sample((prompt,), (token,), policy.logprobs((prompt,), (token,)), reward, agent, 0, agent)
        for agent, prompt, token, reward in [("A", 0, 0, 1.0), ("A", 0, 1, 0.0), ("B", 2, 2, 1.0), ("B", 2, 3, 1.0)]
    ]
    toy_config("reinforce++").build(policy).update(rows)
    assert policy.table.grad is not None
    assert policy.table.grad[0].abs().max() > 0
    assert policy.table.grad[2].abs().max() == 0


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_real_model_with_adapters_learns(name: str) -> None:
    policy = lora_policies(tiny_model(), tiny_tokenizer(), rank=4, alpha=8)["conversation_0"]
    learner = toy_config(name, learning_rate=1e-3, old_logprobs="trainer").build(policy, Accelerator(cpu=True))
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i, (p, t) in enumerate([(3, 5), (7, 2), (1, 4), (8, 1)]):
        ids = torch.randint(0, 256, (p + t,), generator=generator).tolist()
        rows.append(Sample(tuple(ids[:p]), tuple(ids[p:]), (-1.0,) * t, float(i % 2), 0, 0, state=STILL))
    before = {key: tensor.clone() for key, tensor in policy.state_dict().items()}
    metrics = learner.update(rows)
    assert metrics["ratio_max"] == pytest.approx(1, abs=1e-5)
    assert metrics["kl_k3"] == pytest.approx(0, abs=1e-8)
    assert any(not torch.equal(tensor, before[key]) for key, tensor in policy.state_dict().items())
