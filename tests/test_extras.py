from __future__ import annotations

import re
import shlex
from importlib.metadata import requires
from pathlib import Path

import pytest

from waltz_env.extras import install_command

ROOT = Path(__file__).parents[1]
EXTRAS = ["train", "data", "openai", "judges", "serve", "capabilities", "sb3", "vllm", "tinker", "ray", "verifiers"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_command_names_all_requirements_of_an_extra(extra: str) -> None:
    declared = {line.partition(";")[0].strip() for line in requires("waltz-env") or [] if f'"{extra}"' in line}
    assert declared
    assert set(shlex.split(install_command(extra))[2:]) == declared


def test_extras_are_joined_without_repetition() -> None:
    words = shlex.split(install_command("openai", "serve"))
    assert words[:2] == ["pip", "install"]
    assert len(words) == len(set(words))
    assert set(words) == set(shlex.split(install_command("openai"))) | set(shlex.split(install_command("serve")))


def test_nothing_tells_users_to_install_the_package_from_pypi_where_it_is_not() -> None:
    files = [
        path
        for folder in ("agents", "algorithms", "waltz_env", "docs", "examples")
        for path in (ROOT / folder).rglob("*")
    ]
    texts = {path: path.read_text("utf-8") for path in [*files, ROOT / "README.md"] if path.suffix in {".py", ".md"}}
    assert [path for path, text in texts.items() if re.search(r"pip install\s+'?waltz-env", text)] == []
