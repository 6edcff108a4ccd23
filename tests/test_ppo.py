from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.learners import random_table
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents.layouts import full_policy
from waltz_env.algorithms.advantages import generalized_advantages
from waltz_env.algorithms.batches import deal, pad
from waltz_env.algorithms.critic import Critic, CriticConfig
from waltz_env.algorithms.ppo import PPOConfig
from waltz_env.algorithms.probes.conformance import toy_policy, toy_rows
from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.processes import Processes
from waltz_env.algorithms.protocols import FeaturePolicy, Sample
from waltz_env.algorithms.registry import with_settings
from waltz_env.algorithms.reinforce_pp import ReinforcePPConfig
from waltz_env.algorithms.surrogate import SurrogateConfig
from waltz_env.errors import CheckpointError, UsageError

CONFIG = PPOConfig(critic=CriticConfig(learning_rate=0.03, epochs=5), surrogate=SurrogateConfig(learning_rate=0.1))
REWARDS, MASK = pad([[0.0, 0.0, 1.0], [0.5]])
VALUES, _ = pad([[0.2, 0.4, 0.7], [0.1]])


def test_the_one_step_error_is_reward_plus_the_change_of_value() -> None:
    found = generalized_advantages(REWARDS, VALUES, mask=MASK, gae_lambda=0.0)
    torch.testing.assert_close(found, torch.tensor([[0.2, 0.3, 0.3], [0.4, 0, 0]]))


def test_errors_to_come_count_decayed() -> None:
    found = generalized_advantages(REWARDS, VALUES, mask=MASK, gae_lambda=0.5)
    torch.testing.assert_close(found, torch.tensor([[0.2 + 0.15 + 0.075, 0.3 + 0.15, 0.3], [0.4, 0, 0]]))


def test_at_lambda_1_it_is_return_minus_value() -> None:
    found = generalized_advantages(REWARDS, VALUES + 9 * ~MASK, mask=MASK, gae_lambda=1.0)
    torch.testing.assert_close(found, torch.tensor([[0.8, 0.6, 0.3], [0.4, 0, 0]]))


def test_with_a_critic_that_knows_nothing_yet_it_is_reinforce_pp() -> None:
    gradients = []
    for config in (CONFIG, ReinforcePPConfig(surrogate=SurrogateConfig(learning_rate=0.1))):
        policy = toy_policy()
        config.build(policy).update(toy_rows(policy))
        assert policy.table.grad is not None
        gradients.append(policy.table.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_critic_learns_what_a_prompt_is_worth() -> None:
    policy = ToyPolicy(torch.zeros(4, 4))
    learner = with_settings(CONFIG, learning_rate=0.0, beta=0.0).build(policy)
    rows = [
        Sample((i % 2,), (2 + i // 2 % 2,), policy.logprobs((i % 2,), (2,)), i % 2 + 0.1 * (i // 2 % 2), 0, 0)
        for i in range(16)
    ]
    explained = [learner.update(rows)["explained_variance"] for _ in range(20)]
    assert explained[0] < 0.1
    assert explained[-1] > 0.9


def test_the_critic_reads_what_was_said_before_a_token_and_not_the_token() -> None:
    policy = ToyPolicy(torch.zeros(4, 4))
    spoken = [((0, 1), (2, 3)), ((0, 1), (3, 3)), ((1,), (2, 3, 0))]
    samples = [Sample(p, t, policy.logprobs(p, t), 0.0, 0, 0) for p, t in spoken]

    def inputs_of(rows: list[Sample]) -> Tensor:
        processes = Processes(None)
        steps = deal(rows, minibatches=1, tokens_per_microbatch=1_000, device=policy.device, processes=processes)
        _, mask = pad([row.logprobs for row in rows])
        return Critic(policy, CriticConfig(), processes=processes).inputs(rows, steps=steps, mask=mask)

    inputs = inputs_of(samples)
    assert inputs.shape == (2 + 2 + 3, policy.feature_size)
    first, second, other = inputs.split([2, 2, 3])
    assert torch.equal(first[0], second[0])  # the same prompt
    assert not torch.equal(first[1], second[1])  # after another first token
    torch.testing.assert_close(inputs_of(samples[2:]), other)


def test_what_the_critic_explains_is_no_merit_of_an_action() -> None:
    """Prompt 1 pays 1 more than prompt 0, whatever is said; what is said pays 0.1. A fitted critic tells them apart."""
    rows = [((0,), 2, 0.0), ((0,), 3, 0.1), ((1,), 2, 1.0), ((1,), 3, 1.1)]
    policy = ToyPolicy(torch.zeros(4, 4))
    samples = [Sample(p, (t,), policy.logprobs(p, (t,)), r, 0, 0) for p, t, r in rows]
    learner = with_settings(
        CONFIG, learning_rate=0.0, beta=0.0, critic=CriticConfig(learning_rate=0.03, epochs=200)
    ).build(policy)
    learner.update(samples)
    learner.update(samples)
    gradient = policy.table.grad
    assert gradient is not None
    for prompt in (0, 1):
        assert gradient[prompt, 3] < -0.1  # the better token is raised after both prompts
        assert gradient[prompt, 2] > 0.1


def test_features_are_of_the_frozen_reference_at_each_position() -> None:
    policy = full_policy(tiny_model(), tiny_tokenizer())
    assert isinstance(policy, FeaturePolicy)
    ids = torch.arange(12).view(2, 6)
    arguments = (ids, torch.ones_like(ids), torch.arange(6).expand(2, 6))
    before = policy.features(*arguments, keep=3)
    assert before.shape == (2, 3, policy.feature_size)
    assert not before.requires_grad
    output = policy.logits(*arguments, keep=3, reference=True)
    torch.testing.assert_close(policy.model.get_output_embeddings()(before), output)
    with torch.no_grad():
        policy.parameters()[0].add_(1.0)
    assert torch.equal(policy.features(*arguments, keep=3), before)


def test_a_policy_without_features_is_refused() -> None:
    class Featureless(ToyPolicy):
        features = None  # type: ignore[assignment]

    with pytest.raises(UsageError, match="Featureless has none"):
        CONFIG.build(Featureless(random_table(5)))


def test_a_checkpoint_of_another_critic_is_refused() -> None:
    policy = toy_policy()
    state = CONFIG.build(policy).state_dict()
    other = with_settings(CONFIG, critic=CriticConfig(hidden=8)).build(policy)
    with pytest.raises(CheckpointError, match="another critic"):
        other.load_state_dict(state)
