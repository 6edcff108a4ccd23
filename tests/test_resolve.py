"""Algorithms, judges and presets are named alike: the same ways in, the same messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.games import WordJudge
from tests.outside import A_JUDGE, SETTINGS
from waltz_env.algorithms.grpo import GRPOConfig
from waltz_env.algorithms.registry import algorithm
from waltz_env.errors import UsageError
from waltz_env.judges import load_judge
from waltz_env.presets import Preset, nano, preset


def unstamped(name: str) -> Preset:
    """The preset of that name, without the name that ``preset`` puts on its recipe."""
    stamped = preset(name)
    assert stamped.recipe.preset == name
    return replace(stamped, recipe=replace(stamped.recipe, preset=""))


KINDS: dict[str, Callable[[str], object]] = {"algorithm": algorithm, "judge": load_judge, "preset": unstamped}
OUTSIDE = "tests.outside"


@pytest.mark.parametrize(
    ("kind", "path", "expected"),
    [
        ("algorithm", f"{OUTSIDE}:SETTINGS", SETTINGS),
        ("algorithm", f"{OUTSIDE}:make_settings", SETTINGS),
        ("algorithm", f"{OUTSIDE}:Holder.settings", SETTINGS),
        ("algorithm", "waltz_env.algorithms.grpo:GRPOConfig", GRPOConfig()),
        ("judge", f"{OUTSIDE}:A_JUDGE", A_JUDGE),
        ("judge", f"{OUTSIDE}:make_judge", A_JUDGE),
        ("judge", f"{OUTSIDE}:Holder.judge", A_JUDGE),
        ("preset", "waltz_env.presets.nano:PRESET", nano.PRESET),
        ("preset", f"{OUTSIDE}:make_preset", nano.PRESET),
        ("preset", f"{OUTSIDE}:Holder.preset", nano.PRESET),
    ],
)
def test_a_dotted_path_leads_to_an_object_or_to_what_returns_one(kind: str, path: str, expected: object) -> None:
    assert KINDS[kind](path) == expected


def test_a_class_is_called_although_it_has_the_methods_of_its_objects() -> None:
    assert isinstance(load_judge("tests.games:WordJudge"), WordJudge)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("no_such_package:X", "Nothing could be imported from 'no_such_package:X'"),
        ("waltz_env.types:Jugdement", "Did you mean 'Judgement'?"),
        (":X", "package.module:NAME"),
        ("package:", "package.module:NAME"),
        (".relative:X", "package.module:NAME"),
        ("math:pi:e", "package.module:NAME"),
        (f"{OUTSIDE}:NOT_AN_OBJECT", "leads to 3"),
        (f"{OUTSIDE}:dict", "has no attribute 'dict'"),
        ("builtins:object", "is expected, or something that returns one"),
        (f"{OUTSIDE}:NeedsArguments", "cannot be called without arguments"),
    ],
)
def test_a_path_that_leads_to_nothing_useful_says_why(kind: str, path: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        KINDS[kind](path)
    assert hint in str(error.value)


@pytest.mark.parametrize(
    ("kind", "name", "nearest"),
    [
        ("algorithm", "reinforce", "reinforce++"),
        ("algorithm", "mapo", "mappo"),
        ("judge", "rule", "rules"),
        ("judge", "wildgard:some/folder", "wildguard"),
        ("preset", "nanno", "nano"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(kind: str, name: str, nearest: str) -> None:
    with pytest.raises(UsageError) as error:
        KINDS[kind](name)
    assert f"Did you mean {nearest!r}?" in str(error.value)


@pytest.mark.parametrize(
    ("kind", "target", "expected"),
    [("algorithm", "SETTINGS", SETTINGS), ("judge", "A_JUDGE", A_JUDGE), ("preset", "make_preset", nano.PRESET)],
)
def test_an_installed_package_joins_by_an_entry_point(
    kind: str, target: str, expected: object, install: Callable[[str], None]
) -> None:
    install(f"[waltz_env.{kind}s]\nmine = {OUTSIDE}:{target}\nbroken = {OUTSIDE}:NOTHING\n")
    assert KINDS[kind]("mine") == expected
    with pytest.raises(UsageError, match="Did you mean 'mine'"):
        KINDS[kind]("mines")
    with pytest.raises(UsageError, match=f"'{OUTSIDE}:NOTHING', the entry point 'broken'"):
        KINDS[kind]("broken")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a package that has these entry points."""

    def write(entry_points: str) -> None:
        info = tmp_path / "outside-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points)
        monkeypatch.syspath_prepend(str(tmp_path))

    return write
