"""What a learner must do, whatever its algorithm: the checks behind ``waltz_env.testing.learner_test``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from statistics import fmean

import torch
from accelerate import Accelerator
from torch import Tensor

from waltz_env.algorithms.probes.games import TOKEN_PROBES, final_reward, learn_to_waltz, learn_tokens
from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.protocols import STATE, Learner, LearnerConfig, Sample
from waltz_env.algorithms.registry import settings_of, with_settings

_VOCABULARY = 5
_SOLVED = 0.9
_LAST = 5  # number of final steps whose mean reward must be above _SOLVED
_AT_THE_START = {"kl": 0.0, "kl_k3": 0.0, "ratio_mean": 1.0, "ratio_max": 1.0, "clip_fraction": 0.0}


def check_learner(config: LearnerConfig) -> None:
    """Run every check; see ``waltz_env.testing.learner_test``.

    Raises:
        AssertionError: a check failed.
    """
    for check in CHECKS:
        check(config)


def build(config: LearnerConfig, policy: ToyPolicy) -> Learner:
    """A learner of ``config`` in one process on the CPU."""
    return config.build(policy, Accelerator(cpu=True))


def toy_policy(seed: int = 0) -> ToyPolicy:
    """A policy of five tokens with random logits."""
    generator = torch.Generator().manual_seed(seed)
    return ToyPolicy(torch.randn(_VOCABULARY, _VOCABULARY, generator=generator))


def toy_rows(policy: ToyPolicy, *, seed: int = 0, count: int = 12) -> list[Sample]:
    """Samples of ``policy``: prompts of 1 to 3 tokens, completions of 1 to 4; the reward is the share of token 1."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(count):
        prompt = (*[(i + 2) % _VOCABULARY] * (i % 3), i % 2)
        ((tokens, logprobs),) = policy.sample([prompt], 1 + i % 4, generator=generator)
        reward = tokens.count(1) / len(tokens)
        rows.append(Sample(prompt, tokens, logprobs, reward, i % 2, policy.version, state=(0.0,) * len(STATE)))
    return rows


class _ListeningPolicy(ToyPolicy):
    """A policy that remembers the attended tokens and positions of each row it was asked about."""

    def __init__(self, table: Tensor) -> None:
        super().__init__(table)
        self.heard: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def logits(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, keep: int, *, reference: bool = False
    ) -> Tensor:
        for ids, attended, positions in zip(input_ids, attention_mask.bool(), position_ids, strict=True):
            self.heard.append((tuple(ids[attended].tolist()), tuple(positions[attended].tolist())))
        return super().logits(input_ids, attention_mask, position_ids, keep, reference=reference)


def check_an_update_without_rows(config: LearnerConfig) -> None:
    """An update without samples raises nothing and changes nothing."""
    policy = toy_policy()
    learner = build(config, policy)
    assert isinstance(learner, Learner), f"build() must give a Learner; got {learner!r}."
    before = _copy(policy.state_dict())
    _check_metrics(learner.update([]))
    assert policy.version == 0, f"update([]) must leave policy.version at 0; it is {policy.version}."
    _assert_equal(policy.state_dict(), before, "update([]) must leave the policy as it was")


def check_the_first_update(config: LearnerConfig) -> None:
    """It reports finite numbers, moves the weights, adds 1 to the version, and starts at ratio 1 and KL 0."""
    policy = toy_policy()
    learner = build(config, policy)
    before = _copy(policy.state_dict())
    metrics = learner.update(toy_rows(policy))
    _check_metrics(metrics)
    assert policy.version == 1, f"An update must add 1 to policy.version; after the first it is {policy.version}."
    moved = [name for name, tensor in policy.state_dict().items() if not torch.equal(tensor, before[name])]
    assert moved, "An update from rows with different rewards must change the policy."
    settings = settings_of(config)
    one_step = settings.get("epochs", 1) == settings.get("minibatches", 1) == 1
    for name, expected in _AT_THE_START.items() if one_step else ():
        value = metrics.get(name, expected)
        assert abs(value - expected) < 1e-5, (
            f"In the first update of a policy that is its own reference, {name} must be {expected}; got {value}."
        )


def check_what_the_policy_is_asked(config: LearnerConfig) -> None:
    """Each row of each forward pass is one sample, with its padding masked and positions from its first token on."""
    rows = toy_rows(toy_policy())
    policy = _ListeningPolicy(toy_policy().table.detach())
    build(config, policy).update(rows)
    assert policy.heard, "update() must ask the policy for the logits of its samples, and did not."
    samples = {row.prompt_ids + row.token_ids for row in rows}
    for sequence, positions in policy.heard:
        assert sequence in samples, (
            f"A forward pass must hold samples, prompt_ids + token_ids, under its attention mask; got {sequence}."
        )
        assert positions == tuple(range(len(sequence))), (
            f"position_ids must count each row's own tokens from 0; got {positions}."
        )


def check_the_microbatches(config: LearnerConfig) -> None:
    """Settings with ``tokens_per_microbatch``: one row per forward pass gives the same updates as all rows at once."""
    if "tokens_per_microbatch" not in settings_of(config):
        return
    results = []
    for budget in (1, 10_000):
        policy = toy_policy()
        learner = build(with_settings(config, tokens_per_microbatch=budget), policy)
        for seed in range(3):  # several updates, because a critic fitted in one affects the next
            learner.update(toy_rows(toy_policy(), seed=seed))
        results.append(policy.state_dict())
    for name, tensor in results[0].items():
        difference = float((tensor - results[1][name]).abs().max())
        assert difference < 1e-5, (
            f"tokens_per_microbatch must not change an update; {name} differs by {difference:.2g}."
        )


def check_the_direction(config: LearnerConfig) -> None:
    """An update raises the expected reward.

    A uniform policy draws all sequences equally often, so the batch of all of them is the expectation itself: the
    update's direction cannot be blamed on chance.
    """
    policy = ToyPolicy(torch.zeros(3, 3))
    sequences = list(product(range(3), repeat=2))
    rewards = dict(zip(sequences, torch.randn(9, generator=torch.Generator().manual_seed(2)).tolist(), strict=True))
    rows = [
        Sample((0,), tokens, policy.logprobs((0,), tokens), reward, 0, 0, state=(0.0,) * len(STATE))
        for tokens, reward in rewards.items()
    ]

    def expected() -> float:
        return sum(math.exp(sum(policy.logprobs((0,), tokens))) * reward for tokens, reward in rewards.items())

    before = expected()
    build(config, policy).update(rows)
    assert expected() > before, (
        f"An update from all sequences, equally likely, must raise the expected reward; it fell from {before:.4f} to "
        f"{expected():.4f}."
    )


def check_the_continuation(config: LearnerConfig) -> None:
    """Four updates equal two, a saved and loaded state, and two more, bit for bit."""
    whole = toy_policy()
    learner = build(config, whole)
    for seed in range(4):
        learner.update(toy_rows(whole, seed=seed))
    first = toy_policy()
    learner = build(config, first)
    for seed in range(2):
        learner.update(toy_rows(first, seed=seed))
    state = learner.state_dict()
    wrong = [name for name, value in state.items() if not isinstance(value, Tensor)]
    assert not wrong, f"state_dict() must hold tensors alone, as checkpoints do; not so: {', '.join(wrong)}."
    second = toy_policy()
    second.load_state_dict(_copy(first.state_dict()))
    second.version = first.version
    learner = build(config, second)
    learner.load_state_dict(_copy(state))
    for seed in range(2, 4):
        learner.update(toy_rows(second, seed=seed))
    _assert_equal(
        second.state_dict(), whole.state_dict(), "4 updates must equal 2, state_dict, load_state_dict, 2 more"
    )


def check_the_token_probes(config: LearnerConfig) -> None:
    """It solves the three probe games about tokens."""
    for name, probe in TOKEN_PROBES.items():
        _check_solved(name, learn_tokens(config, probe))


def check_the_waltz(config: LearnerConfig) -> None:
    """Two agents, each with a learner of its own, solve what neither can alone."""
    _check_solved("feedback helps", [final_reward(games) for games in learn_to_waltz(config)])


CHECKS: tuple[Callable[[LearnerConfig], None], ...] = (
    check_an_update_without_rows,
    check_what_the_policy_is_asked,
    check_the_first_update,
    check_the_microbatches,
    check_the_direction,
    check_the_continuation,
    check_the_token_probes,
    check_the_waltz,
)


def _check_metrics(metrics: object) -> None:
    assert isinstance(metrics, dict), f"update() must give a dict of metrics; got {metrics!r}."
    wrong = {name: value for name, value in metrics.items() if not isinstance(value, float) or not math.isfinite(value)}
    assert not wrong, f"Metrics must be finite floats by name; got {wrong}."


def _check_solved(name: str, curve: Sequence[float]) -> None:
    reached = fmean(curve[-_LAST:])
    assert reached > _SOLVED, (
        f"The probe game {name!r} must be solved in {len(curve)} updates (mean reward above {_SOLVED} at the end); it "
        f"began at {curve[0]:.2f} and reached {reached:.2f}. Is the learning rate one for a table of logits, about 0.1?"
    )


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def _assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor], rule: str) -> None:
    different = [name for name, tensor in expected.items() if not torch.equal(actual[name], tensor)]
    assert not different, f"{rule}, bit for bit; these differ: {', '.join(different)}."
