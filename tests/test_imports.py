"""The import arrows: a part imports the layers below its own, and no other part of its own layer.

So agents --> waltz_env core <-- algorithms, and only what stands above all three puts them together.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import waltz_env

ROOT = Path(__file__).parents[1]
CORE = "core"  # everything in waltz_env/ that is not named below
# From the ground up. Parts of one layer do not know each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    (CORE,),
    ("agents", "algorithms", "serving", "wrappers", "report"),
    ("presets", "testing", "interop"),
    ("experiments",),
    ("export",),
    ("cli",),
)
LAYER_OF = {part: number for number, parts in enumerate(LAYERS) for part in parts}
NOT_INSTALLED = {"waltz_env.interop.verifiers"}  # it needs a library that is tested in another environment
# The core's requirements. Any other library is optional for it, and imported inside the function that needs it.
CORE_REQUIRES = {"numpy", "gymnasium", "pettingzoo"}


def part_of(module: str) -> str:
    """The part of the project that a module such as ``waltz_env.agents.openai_agent`` belongs to."""
    second = module.split(".")[1] if "." in module else ""
    return second if second in LAYER_OF else CORE


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "waltz_env" else ("waltz_env", *parts))


def imported(node: ast.AST, in_function: bool = False) -> Iterator[tuple[str, bool]]:
    """Every module (or name in one) that is imported anywhere below ``node``, and whether inside a function."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, in_function) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from ((f"{'.' * node.level}{node.module or ''}.{alias.name}", in_function) for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imported(child, in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def violations(module: str, source: str) -> list[str]:
    """What ``module`` imports and must not. Core may use optional libraries inside the functions that need them."""
    part = part_of(module)
    wrong = []
    for name, in_function in imported(ast.parse(source)):
        top = name.split(".")[0]
        if top == "waltz_env":
            other = part_of(name)
            allowed = other == part or LAYER_OF[other] < LAYER_OF[part]
        elif top in {"", "agents", "algorithms"}:  # relative, or by the name of a folder
            allowed = False
        else:
            allowed = part != CORE or in_function or top in sys.stdlib_module_names | CORE_REQUIRES
        if not allowed:
            wrong.append(f"{module} imports {name}")
    return wrong


def sources() -> list[Path]:
    """Every source file where it lives, not through the links in waltz_env/."""
    linked = {ROOT / "waltz_env" / "agents", ROOT / "waltz_env" / "algorithms"}
    folders = [ROOT / "agents", ROOT / "algorithms", ROOT / "waltz_env"]
    return sorted(path for folder in folders for path in folder.rglob("*.py") if linked.isdisjoint(path.parents))


def test_no_file_imports_against_the_arrows() -> None:
    files = sources()
    assert {part_of(module_of(path)) for path in files} == set(LAYER_OF)
    assert [line for path in files for line in violations(module_of(path), path.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("waltz_env.agents.openai_agent", "from waltz_env.algorithms.protocols import Sample"),
        ("waltz_env.agents.openai_agent", "from waltz_env import algorithms"),
        ("waltz_env.agents.openai_agent", "import waltz_env.presets"),
        ("waltz_env.algorithms.training.loop", "def f():\n    import waltz_env.agents.templates"),
        ("waltz_env.algorithms.training.loop", "from waltz_env.cli import main"),
        ("waltz_env.rollout", "from waltz_env.agents import templates"),
        ("waltz_env.judges.rules", "import torch"),
        ("waltz_env.judges.rules", "try:\n    import torch\nexcept ImportError:\n    torch = None"),
        ("waltz_env", "from waltz_env import presets"),
        ("waltz_env.serving.duet", "from waltz_env.agents import templates"),
        ("waltz_env.rollout", "from waltz_env.serving import Duet"),
        ("waltz_env.rollout", "from waltz_env.wrappers import EncodedEnv"),
        ("waltz_env.wrappers.encoded", "from waltz_env.algorithms import train"),
        ("waltz_env.wrappers.encoded", "from waltz_env.agents import FollowAdvice"),
        ("waltz_env.algorithms.conformance", "from waltz_env.testing import learner_test"),
        ("waltz_env.presets.nano", "from waltz_env import cli"),
        ("waltz_env.agents.openai_agent", "from . import templates"),
        ("waltz_env.agents.openai_agent", "from agents import templates"),
    ],
)
def test_an_import_against_the_arrows_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("waltz_env.agents.openai_agent", "import torch\nfrom waltz_env.types import Labels"),
        ("waltz_env.algorithms.training.loop", "from waltz_env.rollout import play"),
        ("waltz_env.judges.rules", "def f():\n    import torch"),
        ("waltz_env.env", "import json\nimport numpy as np\nfrom pettingzoo.utils import agent_selector"),
        ("waltz_env.presets.nano", "from waltz_env.agents import templates\nfrom waltz_env.algorithms import trainer"),
    ],
)
def test_an_import_along_the_arrows_is_allowed(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_importing_the_package_loads_no_deep_learning_library() -> None:
    heavy = {"torch", "transformers", "peft", "accelerate", "tokenizers", "matplotlib", "tyro", "rich", "tqdm"}
    code = f"import sys, waltz_env; print(sorted({heavy!r} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_module_imports_and_has_what_it_exports() -> None:
    names = [module.name for module in pkgutil.walk_packages(waltz_env.__path__, "waltz_env.")]
    assert {part_of(name) for name in names} == set(LAYER_OF)
    for name in names:
        if not name.endswith("__main__") and name not in NOT_INSTALLED:
            module = importlib.import_module(name)
            missing = [export for export in getattr(module, "__all__", ()) if not hasattr(module, export)]
            assert missing == [], name
