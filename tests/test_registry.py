from __future__ import annotations

from pathlib import Path

import pytest

from tests.learners import toy_config
from waltz_env.algorithms.grpo import GRPOConfig
from waltz_env.algorithms.registry import ALGORITHMS, NEEDS_GROUPS, algorithm
from waltz_env.algorithms.rloo import RLOOConfig
from waltz_env.algorithms.surrogate import SurrogateConfig
from waltz_env.errors import UsageError

NO_SETTINGS = 3


@pytest.mark.parametrize("name", ALGORITHMS)
def test_included_algorithms_are_found_and_take_the_common_settings(name: str) -> None:
    assert algorithm(name) is ALGORITHMS[name]
    assert isinstance(ALGORITHMS[name], SurrogateConfig)


def test_algorithms_that_need_groups_are_included() -> None:
    assert NEEDS_GROUPS.issubset(ALGORITHMS)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("waltz_env.algorithms.rloo:RLOOConfig", RLOOConfig()),
        ("waltz_env.algorithms.mappo:MAPPO", ALGORITHMS["mappo"]),
    ],
)
def test_a_dotted_path_leads_to_settings_or_to_their_class(path: str, expected: object) -> None:
    assert algorithm(path) == expected


@pytest.mark.parametrize("path", ["no_such_package:X", "waltz_env.algorithms.rloo:NoSuchThing", ":X"])
def test_a_path_that_leads_nowhere_is_told(path: str) -> None:
    with pytest.raises(UsageError, match="could be imported"):
        algorithm(path)


def test_what_builds_no_learner_is_refused() -> None:
    with pytest.raises(UsageError, match="leads to 3"):
        algorithm("tests.test_registry:NO_SETTINGS")


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'reinforce\\+\\+'"):
        algorithm("reinforce")
    with pytest.raises(UsageError, match="mappo"):
        algorithm("mapo")


def test_an_installed_package_joins_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[waltz_env.algorithms]\nmine = waltz_env.algorithms.grpo:GRPOConfig\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert algorithm("mine") == GRPOConfig()
    with pytest.raises(UsageError, match="Did you mean 'mine'"):
        algorithm("mines")


def test_settings_for_small_policies_differ_from_the_default_in_rates_alone() -> None:
    assert toy_config("grpo") == GRPOConfig(learning_rate=0.1)
