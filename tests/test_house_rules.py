"""The house rules of CONTRIBUTING.md that no linter checks."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import pkgutil
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path

import pytest

import waltz_env

ROOT = Path(__file__).parents[1]
PACKAGE = [path for folder in ("agents", "algorithms", "waltz_env") for path in sorted((ROOT / folder).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PROGRAMS = [path for folder in ("benchmarks", "examples") for path in sorted((ROOT / folder).glob("*.py"))]
TREES = {path: ast.parse(path.read_text("utf-8")) for path in [*PACKAGE, *PROGRAMS, *TESTS]}

LINES = {name: (ROOT / name).read_text("utf-8") for name in ("CONTRIBUTING.md", "pyproject.toml")}
SETTINGS = tomllib.loads(LINES["pyproject.toml"])["tool"]

# Inputs of a model belong together, as in torch and transformers; what a user writes and the package calls is theirs.
BY_POSITION = {"logits", "features", "hidden_states", "metrics", "build_workbench"}
MEANT_AS_BASES = {"WaltzError", "Rules", "FixedSpaces", "View", "Sparse"}
DERIVED = {
    "_ListeningPolicy",  # a probe: a toy policy that also notes what it was asked
    "WaltzSafetyChoiceAECEnv",  # the AEC environment with other spaces
}
BRITISH = (
    r"(normal|optim|general|central|serial|token|initial|summar|organ|recogn|minim|maxim|penal|vector|material|custom)is"
    r"(e|es|ed|er|ers|ing|ation)\b|colour|behaviour|favour|neighbour|honour|licence|labell|catalogue|grey|judgment"
).replace(r"\b", r"(_|$)")
BORROWED = {"cancelled"}  # of concurrent.futures


def test_every_error_of_the_package_belongs_to_its_family() -> None:
    raised = {
        ast.unparse(node.exc.func)
        for path in PACKAGE
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    }
    assert raised & set(dir(builtins)) <= {"AttributeError"}  # what a module's __getattr__ owes the language


def classes(paths: Sequence[Path]) -> Iterator[ast.ClassDef]:
    for path in paths:
        yield from (node for node in ast.walk(TREES[path]) if isinstance(node, ast.ClassDef))


def names_of_bases(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases]


def public_calls() -> Iterator[tuple[str, Callable[..., object]]]:
    """Functions and classes in a package's ``__all__``, with methods; data has fields instead of arguments."""
    for package in pkgutil.walk_packages(waltz_env.__path__, "waltz_env."):
        module = importlib.import_module(package.name) if package.ispkg else waltz_env
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if not getattr(value, "__module__", "").startswith("waltz_env"):
                continue  # a name for a type of another library
            if inspect.isclass(value):
                if not (is_dataclass(value) or issubclass(value, dict | tuple | BaseException)):
                    yield name, value
                yield from ((key, method) for key, method in vars(value).items() if inspect.isfunction(method))
            elif callable(value):
                yield name, value


def test_public_calls_take_at_most_two_arguments_by_position() -> None:
    by_position = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    for name, call in public_calls():
        if not name.startswith("_") and name not in BY_POSITION:
            parameters = inspect.signature(call).parameters.values()
            names = [parameter.name for parameter in parameters if parameter.kind in by_position]
            assert len([name for name in names if name != "self"]) <= 2, (name, names)


def test_data_is_frozen_and_slotted() -> None:
    loose = {
        node.name
        for node in classes(PACKAGE + PROGRAMS)
        for decorator in map(ast.unparse, node.decorator_list)
        if "dataclass" in decorator and not ("frozen=True" in decorator and "slots=True" in decorator)
    }
    assert loose == set()


def test_no_class_derives_from_a_concrete_class_of_the_package() -> None:
    own = {node.name: node for node in classes(PACKAGE)}
    protocols = {name for name, node in own.items() if "Protocol" in names_of_bases(node)}
    derived = {
        name
        for name, node in own.items()
        if set(names_of_bases(node)) & (own.keys() - protocols - MEANT_AS_BASES)
        if not name.endswith("Error")
    }
    assert derived == DERIVED


def test_identifiers_are_spelled_the_american_way() -> None:
    names = {
        name
        for path in PACKAGE + PROGRAMS
        for node in ast.walk(TREES[path])
        for name in (getattr(node, field, None) for field in ("id", "arg", "attr", "name"))
        if isinstance(name, str)
    }
    assert {name for name in names if re.search(BRITISH, name.lower())} - BORROWED == set()


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
    parts = {"bare_proxy.py", "trl_update.py", "turns.py"}  # of other benchmarks
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
