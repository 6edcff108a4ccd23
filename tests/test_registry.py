from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.outside import SETTINGS
from waltz_env import algorithms
from waltz_env.algorithms.critic import CriticConfig
from waltz_env.algorithms.grpo import GRPOConfig
from waltz_env.algorithms.ppo import PPOConfig
from waltz_env.algorithms.protocols import Learner, Policy, needs_groups
from waltz_env.algorithms.registry import ALGORITHMS, algorithm, settings_of, with_settings
from waltz_env.algorithms.surrogate import SurrogateConfig
from waltz_env.errors import UsageError


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_included_algorithm_takes_the_shared_settings_by_name(name: str) -> None:
    settings = settings_of(algorithm(name, learning_rate=1e-4, epochs=3))
    assert (settings["learning_rate"], settings["epochs"]) == (1e-4, 3)
    assert settings.keys() >= settings_of_the_surrogate()


def settings_of_the_surrogate() -> set[str]:
    return set(SurrogateConfig.__dataclass_fields__)


def test_an_algorithm_is_named_with_its_own_settings_and_the_shared_ones() -> None:
    expected = GRPOConfig(scale="none", surrogate=SurrogateConfig(beta=0.5))
    assert algorithm("grpo", scale="none", beta=0.5) == expected
    assert algorithm("waltz_env.algorithms.grpo:GRPOConfig", scale="none", beta=0.5) == expected


def test_settings_that_are_not_given_stay_as_they_are() -> None:
    config = PPOConfig(critic=CriticConfig(hidden=8), surrogate=SurrogateConfig(learning_rate=0.1, epochs=2))
    changed = with_settings(config, gae_lambda=0.5, epochs=4)
    assert changed == PPOConfig(
        gae_lambda=0.5, critic=CriticConfig(hidden=8), surrogate=SurrogateConfig(learning_rate=0.1, epochs=4)
    )


def test_a_whole_surrogate_can_be_given_and_changed_in_one_call() -> None:
    config = with_settings(GRPOConfig(), surrogate=SurrogateConfig(learning_rate=0.1), epochs=2)
    assert config == GRPOConfig(surrogate=SurrogateConfig(learning_rate=0.1, epochs=2))


def test_a_setting_that_the_algorithm_does_not_have_is_refused_with_what_it_has() -> None:
    with pytest.raises(UsageError, match="Unknown setting of GRPOConfig 'baseline'.*Known: aggregation, beta, .*scale"):
        algorithm("grpo", baseline="group")
    with pytest.raises(UsageError, match="Did you mean 'learning_rate'"):
        algorithm("ppo", learning_rat=0.1)


def test_an_object_from_outside_is_used_as_it_stands() -> None:
    assert algorithm("tests.outside:SETTINGS") is SETTINGS


@dataclass(frozen=True)
class Bare:
    """Settings of another package: nothing but ``build`` and what its author wants to say."""

    def build(self, policy: Policy, accelerator: object = None) -> Learner:
        raise AssertionError


@dataclass(frozen=True)
class Comparing(Bare):
    needs_groups: bool = True


def test_algorithms_say_whether_they_need_groups_also_those_of_other_packages() -> None:
    assert {name for name, config in ALGORITHMS.items() if needs_groups(config)} == {
        "reinforce++-baseline",
        "grpo",
        "dr-grpo",
        "rloo",
    }
    assert not needs_groups(Bare())
    assert needs_groups(Comparing())


def test_settings_that_are_not_a_dataclass_cannot_be_changed_by_name() -> None:
    class Plain:
        def build(self, policy: Policy, accelerator: object = None) -> Learner:
            raise AssertionError

    assert settings_of(Plain()) == {}
    with pytest.raises(UsageError, match="Unknown setting of Plain 'learning_rate'.*Known: none"):
        with_settings(Plain(), learning_rate=0.1)


def test_the_old_set_of_names_still_works_and_says_what_replaces_it() -> None:
    with pytest.warns(DeprecationWarning, match="use waltz_env.algorithms.needs_groups"):
        names = algorithms.NEEDS_GROUPS  # type: ignore[attr-defined]
    assert names == {"reinforce++-baseline", "grpo", "dr-grpo", "rloo"}
