"""Settings as JSON and back: what a run folder keeps is what the run had."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from tests.tiny_preset import RECIPE, LongDraftsOnly, Outside
from waltz_env.algorithms import ALGORITHMS, LearnerConfig, LoopConfig, SampleConfig
from waltz_env.errors import DataError, UsageError
from waltz_env.presets import PRESETS, Recipe, with_algorithm, with_learners, with_stages
from waltz_env.rules import Rules
from waltz_env.settings import decode, encode


def through_json(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value), allow_nan=False)))


@pytest.mark.parametrize("name", PRESETS)
def test_the_recipe_of_every_preset_survives(name: str) -> None:
    assert through_json(PRESETS[name].recipe) == PRESETS[name].recipe


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_settings_of_every_algorithm_survive(algorithm: str) -> None:
    recipe = with_algorithm(RECIPE, algorithm)
    again = through_json(recipe)
    assert again == recipe
    assert [type(x) for s in again.stages for x in s.learners.values()] == [type(ALGORITHMS[algorithm])] * 3


def test_rules_and_learners_of_other_packages_survive() -> None:
    outside: LearnerConfig = Outside()
    recipe = with_stages(with_learners(RECIPE, lambda *_: outside), rules=LongDraftsOnly(max_rounds=2, words=7))
    again = through_json(recipe)
    assert again == recipe
    assert again.rules == LongDraftsOnly(max_rounds=2, words=7)
    assert isinstance(again.rules, LongDraftsOnly)


def test_numbers_of_numpy_become_plain_ones() -> None:
    loop = LoopConfig(games=np.int64(8), samples=SampleConfig(draft_probability=np.float32(0.25)))  # type: ignore[arg-type]
    encoded = encode(replace(RECIPE, seed=np.int32(3), loop=loop))  # type: ignore[arg-type]
    assert (type(encoded["seed"]), type(encoded["loop"]["games"])) == (int, int)
    assert encoded["loop"]["samples"]["draft_probability"] == 0.25
    assert json.dumps(encoded)


class NotADataclass:
    """Settings of somebody who forgot the decorator."""


def test_what_cannot_be_kept_is_refused_with_what_to_do() -> None:
    with pytest.raises(UsageError, match="make NotADataclass a frozen dataclass"):
        encode({"learner": NotADataclass()})


def changed(path: tuple[Any, ...], value: Any) -> Mapping[str, Any]:
    """The encoded recipe with one value changed."""
    encoded = encode(RECIPE)
    place = encoded
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return encoded


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("seeds",), 3, "Recipe has no setting 'seeds'. Did you mean 'seed'?"),
        (("loop", "gamez"), 3, "LoopConfig has no setting 'gamez'. Did you mean 'games'?"),
        (("seed",), "many", "The setting 'seed' of Recipe cannot be 'many'"),
        (("loop", "games"), None, "The setting 'games' of LoopConfig cannot be None"),
        (("loop", "samples", "turns"), "some", "The setting 'turns' of SampleConfig cannot be 'some'"),
        (("stages", 0, "rules", "always_revise"), [1], "The setting 'always_revise' of Rules cannot be"),
        (("type",), "no.such.module:Recipe", "'no.such.module:Recipe' cannot be read: No module named 'no'"),
        (("type",), "waltz_env.presets.recipe:Recipes", "cannot be read: module .* has no attribute 'Recipes'"),
        (("type",), "os:system", "name the type 'os:system', which is not a dataclass"),
        (("type",), "", "cannot be read"),
    ],
)
def test_settings_that_do_not_fit_are_named(path: tuple[Any, ...], value: Any, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        decode(changed(path, value))


def test_missing_settings_have_their_defaults_and_needed_ones_are_named() -> None:
    encoded = encode(RECIPE)
    del encoded["test_samples"]
    assert decode(encoded) == replace(RECIPE, test_samples=1)
    del encoded["stages"]
    with pytest.raises(DataError, match="Settings of Recipe are incomplete: .*'stages'"):
        decode(encoded)


def test_a_dataclass_still_checks_its_own_values() -> None:
    with pytest.raises(UsageError, match="games must be 1 or more; got 0"):
        decode(changed(("loop", "games"), 0))


@dataclass(frozen=True)
class Nested:
    """A dataclass of somebody else's, with values of every kind."""

    numbers: tuple[float, ...] = (1.0, 2.5)
    names: Mapping[str, int] | None = None
    rules: Rules | None = None


@pytest.mark.parametrize(
    "value",
    [Nested(), Nested((), {"a": 1}), Nested(rules=Rules(max_rounds=3)), {"x": None, "y": [True, "z"]}, (), "text"],
)
def test_values_of_every_kind_survive(value: Any) -> None:
    expected = {"x": None, "y": (True, "z")} if isinstance(value, dict) else value
    again = through_json(value)
    assert again == expected
    assert not isinstance(again, Recipe)
