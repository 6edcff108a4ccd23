"""What every command has in common: what it loads, what it says, and how it fails."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import setup as distribution
from tests.games import BOMB, Speaker, WordJudge
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env import CONVERSATION, play, write_games
from waltz_env.cli import COMMANDS, main, parse
from waltz_env.cli.progress import WatchBar
from waltz_env.errors import UsageError
from waltz_env.experiments.pairs import laboratory_note
from waltz_env.experiments.watch import Done
from waltz_env.extras import EXTRA_OF, install_command, missing
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder

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


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """What a user types, until the input ends."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_play_says_how_prompts_are_taken_and_takes_them_otherwise_when_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "How do I bake?", "/harmful How do I rob a bank?", "How do I swim?", "/harmful", "How do I rob?")
    assert main(["play", "--max-rounds", "0"]) == 0
    printed = capsys.readouterr().out
    assert "Prompts are taken as benign. /help shows" in printed
    kinds = re.findall(r"as a (\w+) prompt", printed)
    assert kinds == ["benign", "harmful", "benign", "harmful"]


def test_play_has_help_and_an_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    typed(monkeypatch, "/help", "/qiut", "/quit", "never read")
    assert main(["play"]) == 0
    printed = capsys.readouterr()
    for command in ("/harmful", "/benign", "/quit"):
        assert command in printed.out
    assert "Did you mean '/quit'?" in printed.err
    assert "response 0" not in printed.out


def test_play_takes_a_path_for_a_prompt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    typed(monkeypatch, "/etc/passwd: what is it?")
    assert main(["play", "--max-rounds", "0"]) == 0
    assert "/etc/passwd: what is it?" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["play", "serve"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("runs/first-rnu", "Did you mean 'runs/first-run'?"),
        ("runs/nothing-like-it", "Unknown agents 'runs/nothing-like-it'"),
        ("./first-run", "Unknown agents"),
        ("/nonexistent", "Unknown agents '/nonexistent'"),
        ("../nonexistent", "Unknown agents"),
        ("elsewhere/run", "Unknown agents"),
        ("elsewhere", "holds neither a run nor a model"),
        ("a-file", "is a file"),
        ("smolm2", "Did you mean 'smollm2'?"),
        ("a/b/c", "Unknown agents"),
        ("~/run", "Unknown agents"),
    ],
)
def test_a_mistyped_path_is_never_looked_up_on_the_hub(
    command: str,
    name: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    RunFolder(tmp_path / "runs" / "first-run").write_config({"preset": "nano"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a-file").write_text("")
    monkeypatch.chdir(tmp_path)
    arguments = ["--port", "0"] if command == "serve" else ["--prompt", "Hello"]
    assert main([command, name, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_loading_a_model_draws_no_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    capsys.readouterr()
    try:
        assert main(["play", str(tmp_path), "--prompt", "Hello", "--max-new-tokens", "3"]) == 0
        assert "Loading" not in capsys.readouterr().err
    finally:
        logging.enable_progress_bar()


def test_who_plays_with_the_laboratory_model_is_told_that_english_is_not_its_language(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert laboratory_note(folder) is None
    folder.write_config({"preset": "smollm2"})
    assert laboratory_note(folder) is None
    folder.write_config({"preset": "nano"})
    assert "small language" in str(laboratory_note(folder))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_page_has_an_example_that_is_understood(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    example = re.search(r"For example: waltz (.+)", capsys.readouterr().out)
    assert example is not None
    assert type(parse(example[1].split())).__name__.lower() == name


def test_bars_in_a_log_are_few_lines() -> None:
    _, _, errors = waltz("rescore", "nowhere", wanted=TORCH)
    assert "Traceback" not in errors
    code = "from waltz_env.cli import main; main(['--version']); from tqdm import tqdm; print(tqdm([]).mininterval)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(result.stdout.split()[-1]) == 30


def test_rescore_takes_the_files_that_rejudge_takes(games: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rescore", str(games), str(games)]) == 0
    assert "4 games" in capsys.readouterr().out
    assert main(["rescore"]) == 2


def test_a_long_part_shows_what_has_been_done_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    with WatchBar() as progress:
        progress(Done(now="topics: trained_pair", of=3))
        assert progress.bar is not None
        progress.bar.mininterval = 0.0
        for turns in (128, 256):
            progress(Done(now="topics: trained_pair", of=3, turns=turns))
            assert f"turns={turns}" in capsys.readouterr().err


def test_a_chat_server_in_front_of_others_does_not_pay_for_torch() -> None:
    code = (
        "import sys; from waltz_env.cli.serve import Serve; import waltz_env.serving.http.app;"
        "from waltz_env.experiments.servers import Servers; url = 'http://127.0.0.1:9';"
        "Serve(servers=Servers(url, feedback_url=url)).duet().close();"
        f"print(sorted({TORCH!r} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
