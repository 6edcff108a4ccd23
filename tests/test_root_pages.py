"""AGENTS.md is short and true; CITATION.cff says what the package says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

import waltz_env
from tests.test_imports import LAYERS

ROOT = Path(__file__).parents[1]
AGENTS = (ROOT / "AGENTS.md").read_text("utf-8")


def test_agents_md_is_short() -> None:
    assert len(AGENTS.split()) < 350


def test_every_path_in_agents_md_exists() -> None:
    quoted = re.findall(r"`([\w./-]+)`", AGENTS)
    paths = [each for each in quoted if "/" in each or each.endswith(".md")]
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []
    for path in ("waltz_env/agents", "waltz_env/algorithms"):
        assert (ROOT / path).is_symlink()


def test_every_command_in_agents_md_is_one_that_there_is() -> None:
    """The commands of ``waltz`` are parsed by tests/test_docs.py, as those of every page."""
    targets = re.findall(r"^([\w-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    (block,) = re.findall(r"```\n(.*?)```", AGENTS, re.DOTALL)
    for line in block.splitlines():
        command, *words = shlex.split(line, comments=True)
        assert command in ("make", ".venv/bin/python", "waltz")
        if command == "make":
            assert words[0] in targets
        if command.endswith("python"):
            assert words[:3] == ["-m", "pytest", "-q"]
            assert (ROOT / words[3]).exists()


def test_the_layers_in_agents_md_are_those_that_are_checked() -> None:
    (rule,) = re.findall(r"those below it: (.*)\.\n", AGENTS)
    words = [word for word in re.findall(r"[a-z]+", rule) if word not in ("then", "and")]
    order = [number for word in words for number, parts in enumerate(LAYERS) if word in parts]
    assert len(order) == len(words)
    assert order == sorted(order)
    assert set(order) == set(range(len(LAYERS)))


def test_the_citation_names_this_version_no_persons_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == waltz_env.__version__
    assert citation["authors"] == [{"name": "waltz_env developers"}]
    assert {"message", "title", "type", "license"} <= citation.keys()
    (paper,) = citation["references"]
    assert paper["doi"] == "10.48550/arXiv.2510.08240"
    assert f'"{paper["title"]}"' in (ROOT / "docs" / "paper-index.md").read_text("utf-8")
    assert len(paper["authors"]) == 10
