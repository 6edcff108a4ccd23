"""The command line. A command's module, and every library that it needs, is imported once the command is known."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Protocol

import waltz_env
from waltz_env.errors import UsageError, WaltzError, unknown_name
from waltz_env.extras import missing

COMMANDS: Mapping[str, str] = {
    "train": "train a pair and evaluate it on prompts that it never saw",
    "evaluate": "compare runs and baselines on the same prompts",
    "distill": "teach the conversation agent of a run to answer alone as its pair does",
    "report": "make one HTML page of runs and evaluations",
    "rejudge": "judge stored games again with another judge",
    "rescore": "score stored games again with other reward weights",
    "export": "write the trained weights of a run for transformers, PEFT and vLLM",
    "push": "upload the trained weights of a run to the Hugging Face hub",
    "benchmark": "compare algorithms over seeds",
    "play": "type a prompt; watch draft, feedback and revision",
    "serve": "offer the pair as an OpenAI-compatible chat server",
}


class Command(Protocol):
    """A command with its arguments."""

    def run(self) -> int:
        """Run the command and return the exit code."""
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 1 done without a result, 2 an error that the message explains, 130 stopped by Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character is not worth a crash
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "30")  # a bar is a new line in a log; read when tqdm is imported
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words and words[0] in ("-h", "--help", "help"):
            print(_overview())
            return 0
        if words and words[0] == "--version":
            print(f"waltz_env {waltz_env.__version__}")
            return 0
        return parse(words).run()
    except BrokenPipeError:  # whoever read the output has seen enough; nothing is flushed to them at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        known = missing(error)
        if known is None:
            raise
        return _failed(known)
    except (WaltzError, OSError) as error:
        return _failed(error)
    except KeyboardInterrupt:
        return 130


def parse(arguments: Sequence[str]) -> Command:
    """The command that the arguments describe.

    Raises:
        SystemExit: the arguments of the command are malformed, or ask for help.
        UsageError: there is no such command, a name among its arguments is unknown, or a flag would be ignored.
    """
    if not arguments:
        raise UsageError(f"Name a command: {', '.join(COMMANDS)}. `waltz --help` says what they do.")
    name, *rest = arguments
    if name.startswith("-"):
        raise UsageError(f"waltz itself has no option {name}; the command comes first. See `waltz --help`.")
    if name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)
    command: Command = import_module(f"waltz_env.cli.{name}").parse(rest)
    return command


def _overview() -> str:
    lines = [f"  {name:<10} {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: waltz COMMAND [OPTIONS]",
            "",
            "Train, evaluate, play and serve pairs of language models that make each other safe and helpful.",
            "",
            *lines,
            "",
            "waltz COMMAND --help shows the options of a command, waltz --version the version.",
            "Begin with: waltz play (needs no model), or waltz train (five minutes on two CPU cores).",
        ]
    )


def _failed(error: Exception) -> int:
    """Tell the error in one paragraph; the exit code."""
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    colored = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    name = f"\033[1;31m{type(error).__name__}:\033[0m" if colored else f"{type(error).__name__}:"
    print(name, text, file=sys.stderr)
    return 2
