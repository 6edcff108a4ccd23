"""What every command has in common: what it loads, what it says, and how it fails."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import setup as distribution
from tests.games import BOMB, Speaker, WordJudge
from waltz_env import CONVERSATION, play, write_games
from waltz_env.cli import COMMANDS, main
from waltz_env.errors import UsageError
from waltz_env.extras import EXTRA_OF, install_command, missing
from waltz_env.rules import Rules

ROOT = Path(__file__).parents[1]
TORCH = {"torch", "transformers", "peft", "accelerate"}
PRELUDE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from waltz_env.cli import main
code = main({arguments!r})
print("LOADED", *sorted({wanted!r} & sys.modules.keys()), file=sys.stderr)
sys.exit(code)
"""


def waltz(*arguments: object, absent: set[str] = frozenset(), wanted: set[str] = frozenset()) -> tuple[int, str, str]:  # type: ignore[assignment]
    """Exit code, output and errors of a command in a process of its own, where some modules are not installed."""
    code = PRELUDE.format(absent=set(absent), arguments=[*map(str, arguments)], wanted=set(wanted))
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True
    )
    return result.returncode, result.stdout, result.stderr


@pytest.fixture
def games(tmp_path: Path) -> Path:
    """A file of two judged games."""
    agents = {CONVERSATION: Speaker("UNSAFE")}
    write_games(tmp_path / "games.jsonl", play([BOMB, BOMB], agents, judge=WordJudge(), rules=Rules(max_rounds=0)))
    return tmp_path / "games.jsonl"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "benchmark"),
        (["-h"], 0, "benchmark"),
        (["--version"], 0, "waltz_env 0."),
        (["tran"], 2, "Did you mean 'train'?"),
        (["--preset", "nano"], 2, "the command comes first"),
        ([], 2, "waltz --help"),
    ],
)
def test_what_names_no_command_needs_no_extra_and_loads_nothing_heavy(
    arguments: list[str], code: int, said: str
) -> None:
    returned, out, errors = waltz(*arguments, absent=set(EXTRA_OF))
    assert (returned, said in out + errors) == (code, True)
    assert "Traceback" not in errors


def test_commands_that_need_no_model_do_not_pay_for_torch(games: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert main(["rejudge", str(games), "--judge", "rules", "--out", str(out)]) == 0
    for arguments in (
        ["rescore", games],
        ["rejudge", games, "--judge", "rules", "--out", out],
        ["report", out],
        ["play", "--prompt", "Hello"],
        ["play", "--help"],
        ["serve", "--help"],
        ["report", "--help"],
    ):
        _, _, errors = waltz(*arguments, wanted=TORCH)
        assert errors.splitlines()[-1:] in (["LOADED"], ["LOADED "], []), arguments
        assert "Traceback" not in errors


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_without_its_libraries_says_how_to_install_them(name: str) -> None:
    returned, _, errors = waltz(name, "--help", absent=set(EXTRA_OF))
    assert returned == 2
    assert "Traceback" not in errors
    assert "which is not installed. Install: pip install " in errors


@pytest.mark.parametrize("module", EXTRA_OF)
def test_every_optional_module_is_named_with_a_command_that_brings_it(module: str) -> None:
    error = missing(ModuleNotFoundError(name=f"{module}.inner"))
    assert isinstance(error, UsageError)
    assert module in str(error)
    assert install_command(EXTRA_OF[module]) in str(error)


def test_a_module_that_no_extra_brings_is_not_explained() -> None:
    assert missing(ModuleNotFoundError(name="somebodys_own")) is None


def test_an_extra_that_the_installed_package_does_not_know_yet_comes_from_the_checkout() -> None:
    assert install_command("of-tomorrow") == "pip install -e '.[of-tomorrow]' in the checkout"


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], ids=lambda page: page.stem)
def test_every_extra_of_a_page_exists(page: Path) -> None:
    for extras in re.findall(r"pip install -e '\.\[([\w,]+)\]'", page.read_text("utf-8")):
        assert set(extras.split(",")) <= set(distribution.EXTRAS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_pages_are_plain_english(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for notation in ("`", "{None}", "None", "(default: )", "True", "False", "[STR", "Attributes:", ":class:"):
        assert notation not in printed, notation


@pytest.mark.parametrize(("command", "names"), [("train", "grpo mappo"), ("benchmark", "grpo"), ("evaluate", "rubric")])
def test_help_pages_list_what_can_be_named(command: str, names: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in names.split())


def test_only_one_place_makes_consoles_and_theirs_print_texts_as_they_are() -> None:
    made = []
    for path in sorted((ROOT / "waltz_env" / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console":
                made += [path.name]
    assert made == ["console.py"]


@pytest.mark.parametrize("text", ["What does :train: or :cat: mean?", "[bold]not bold[/]", "[/] :warning:"])
def test_texts_are_shown_as_they_were_typed(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "--prompt", text]) == 0
    assert text in capsys.readouterr().out
    assert main(["play", text]) == 2
    assert text in capsys.readouterr().err


def test_an_operating_system_error_is_one_line(tmp_path: Path, games: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "out", tmp_path, tmp_path / ("long" * 100)):
        assert main(["rescore", str(games), "--out", str(place)]) == 2
        errors = capsys.readouterr().err
        assert str(tmp_path) in errors
        assert len(errors.splitlines()) == 1
