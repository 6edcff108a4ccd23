"""The house rules of CONTRIBUTING.md that no linter checks."""

from __future__ import annotations

import ast
import builtins
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = [path for folder in ("agents", "algorithms", "waltz_env") for path in sorted((ROOT / folder).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PROGRAMS = [path for folder in ("benchmarks", "examples") for path in sorted((ROOT / folder).glob("*.py"))]
TREES = {path: ast.parse(path.read_text("utf-8")) for path in [*PACKAGE, *PROGRAMS, *TESTS]}

LINES = {name: (ROOT / name).read_text("utf-8") for name in ("CONTRIBUTING.md", "pyproject.toml")}
SETTINGS = tomllib.loads(LINES["pyproject.toml"])["tool"]


def test_every_error_of_the_package_belongs_to_its_family() -> None:
    raised = {
        ast.unparse(node.exc.func)
        for path in PACKAGE
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    }
    assert raised & set(dir(builtins)) <= {"AttributeError"}  # what a module's __getattr__ owes the language


@pytest.mark.parametrize("name", ["unittest.mock", "pytest.skip", "mark.skip", "importorskip", "xfail"])
def test_tests_use_real_components_and_skip_nothing(name: str) -> None:
    assert [path for path in TESTS if name in path.read_text("utf-8") and path != Path(__file__)] == []


def test_warnings_fail_the_suite() -> None:
    assert SETTINGS["pytest"]["ini_options"]["filterwarnings"] == ["error"]


def test_every_ignored_lint_rule_has_its_reason_beside_it() -> None:
    ignored = LINES["pyproject.toml"].partition("\nignore = [\n")[2].partition("\n]")[0].splitlines()
    assert len(ignored) == len(SETTINGS["ruff"]["lint"]["ignore"])
    assert [line for line in ignored if "  # " not in line] == []


def test_every_test_named_by_the_house_rules_exists() -> None:
    named = set(re.findall(r"`(tests/\w+\.py)`", LINES["CONTRIBUTING.md"]))
    assert "tests/test_house_rules.py" in named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_benchmark_is_in_the_table_of_what_to_rerun() -> None:
    parts = {"trl_update.py"}  # a side of update_speed.py
    benchmarks = {path.name for path in PROGRAMS if path.parent.name == "benchmarks"} - parts
    table = LINES["CONTRIBUTING.md"].partition("## If you change this")[2]
    assert benchmarks - {f"{name}.py" for name in re.findall(r"benchmarks[/.](\w+)", table)} == set()


def test_every_picture_of_the_docs_is_in_the_table_of_what_to_rerun() -> None:
    table = LINES["CONTRIBUTING.md"].partition("## If you change this")[2].replace("\\*", "*")
    patterns = [Path(name).name for name in re.findall(r"[\w/*-]+\.png", table)]
    pictures = [path.name for path in (ROOT / "docs" / "images").glob("*.png")]
    assert [name for name in pictures if not any(Path(name).match(pattern) for pattern in patterns)] == []


def test_tests_wait_for_conditions_not_for_a_clock() -> None:
    assert [path.name for path in TESTS if "time" + ".sleep(" in path.read_text("utf-8")] == ["waiting.py"]
