"""The documentation names only what exists, its commands are understood, and its programs run as they stand."""

from __future__ import annotations

import ast
import pkgutil
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from accelerate import Accelerator
from pettingzoo import aec_registry, parallel_registry

from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env import Judgement, read_games
from waltz_env.algorithms import LoopConfig, SampleConfig, train
from waltz_env.algorithms.registry import ENTRY_POINTS, algorithm
from waltz_env.cli import parse
from waltz_env.experiments.saved_run import claim
from waltz_env.judges import load_judge
from waltz_env.presets import preset, with_algorithm, with_steps, workbench
from waltz_env.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
FROM_BESIDE_DOCS = {"index.md", "changelog.md", "contributing.md"}  # docs/theme/links.py makes them
COMMANDS = "train evaluate distill report rejudge rescore export push benchmark play serve".split()
ONE_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    title: str
    text: str


NOTHING = Block("", "", "")


def blocks(page: Path) -> list[Block]:
    found = re.findall(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(*each) for each in found]


def commands(page: Path) -> Iterator[str]:
    """What follows ``waltz`` on the lines that call it: comments, loops and lines that go on are taken care of."""
    for block in blocks(page):
        if block.language in {"", "bash", "console"}:
            for line in block.text.replace("\\\n", " ").splitlines():
                yield from re.findall(rf"\bwaltz ((?:{'|'.join(COMMANDS)})\b[^;#]*)", line)


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the files of docs/extending.md. What they import and register is gone afterwards."""
    files = {block.title: block.text for block in blocks(ROOT / "docs" / "extending.md") if block.title}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    registered = [(registry, dict(registry)) for registry in (parallel_registry, aec_registry)]
    yield tmp_path
    for name in files:
        sys.modules.pop(name.removesuffix(".py"), None)
    for registry, before in registered:
        registry.clear()
        registry.update(before)


@ONE_PAGE
def test_every_name_in_a_page_can_be_imported(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # it also names what is gone
    for name in re.findall(r"`(waltz_env(?:\.\w+)+)", page.read_text("utf-8")):
        pkgutil.resolve_name(name)


@ONE_PAGE
def test_every_link_in_a_page_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@ONE_PAGE
def test_every_python_block_of_a_page_is_python_and_imports_what_there_is(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("waltz_env"):
                    for alias in node.names:
                        pkgutil.resolve_name(f"{node.module}:{alias.name}")


@ONE_PAGE
def test_every_command_of_a_page_is_understood(page: Path, brought: Path) -> None:
    for block in blocks(page):
        if block.title:
            Path(block.title).write_text(block.text)
    claim(RunFolder(Path("runs/RUN")), preset("nano").recipe)  # what a reader has by then
    for command in commands(page):
        words = shlex.split(command.replace("...", "").replace("$s", "0"))
        try:
            parse(words)
        except SystemExit:
            pytest.fail(f"not understood: waltz {command}")


def test_commands_are_found_behind_variables_in_loops_and_over_lines(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```\nA=1 waltz play RUN  # now\nfor s in 0; do waltz train --seed $s; done\nwaltz serve \\\n  x\n```\n"
    )
    assert [command.split() for command in commands(page)] == [
        ["play", "RUN"],
        ["train", "--seed", "$s"],
        ["serve", "x"],
    ]


@pytest.mark.parametrize("page", ["extending", "quickstart", "wrappers"])
def test_programs_of_a_page_are_short_run_as_they_stand_and_print_what_stands_below(
    page: str, brought: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [*blocks(ROOT / "docs" / f"{page}.md"), NOTHING]
    programs = [(block, below) for block, below in pairwise(found) if block.language == "python"]
    assert programs
    for block, below in programs:
        (brought / block.title).write_text(block.text)
        assert len([line for line in block.text.splitlines() if line.strip()]) <= 20, block.title
        runpy.run_path(str(brought / block.title))
        assert capsys.readouterr().out == (below.text if below.language == "text" else ""), block.title


def test_algorithm_judge_and_preset_of_one_s_own_train_together(brought: Path) -> None:
    model = brought / "Qwen" / "Qwen2.5-0.5B-Instruct"  # a folder of a model's name stands in for the hub
    tiny_model().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    recipe = with_algorithm(with_steps(preset("my_preset:PRESET").recipe, 0, 1), "my_algorithm:SuccessOnly")
    folder = RunFolder(brought / "run")
    bench = workbench(recipe, folder, accelerator=Accelerator())
    assert train(
        bench.agents,
        recipe.stages,
        judge=load_judge("my_judge:ClassifierJudge"),
        prompts=bench.prompts,
        folder=folder,
        config=LoopConfig(games=2, samples=SampleConfig(turns="all")),
    )
    assert [type(learner).__name__ for learner in recipe.stages[-1].learners.values()] == ["SuccessOnly"] * 2
    judgements = [game.final.judgement for game in read_games(folder.games_of_step(1))]
    assert {judgement.judge for judgement in judgements if isinstance(judgement, Judgement)} == {"classifier"}


def test_the_entry_point_of_one_s_own_algorithm_is_in_the_group_that_is_looked_up(brought: Path) -> None:
    project = tomllib.loads((brought / "pyproject.toml").read_text())["project"]
    config = algorithm(project["entry-points"][ENTRY_POINTS]["success-only"])
    assert type(config).__name__ == "SuccessOnly"


def test_every_page_is_in_the_navigation_of_the_site_once() -> None:
    def pages(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict):
            yield from (page for value in entry.values() for page in pages(value))
        elif isinstance(entry, list):
            yield from (page for value in entry for page in pages(value))

    listed = sorted(pages(SITE["nav"]))
    there = {page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")}
    assert listed == sorted(there | FROM_BESIDE_DOCS)
