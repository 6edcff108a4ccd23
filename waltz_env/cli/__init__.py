"""Train, evaluate, play and serve pairs of language models that make each other safe and helpful."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, Any, Protocol

import tyro
from rich.console import Console

from waltz_env.cli.arguments import REGISTRY
from waltz_env.cli.benchmark import Benchmark
from waltz_env.cli.evaluate import Evaluate
from waltz_env.cli.play import Play
from waltz_env.cli.rejudge import Rejudge
from waltz_env.cli.report import Report
from waltz_env.cli.rescore import Rescore
from waltz_env.cli.serve import Serve
from waltz_env.cli.train import train_command, train_help
from waltz_env.errors import WaltzError


class Command(Protocol):
    """A command with its arguments."""

    def run(self) -> int:
        """Run the command and return the exit code."""
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 2 a usage error, 130 stopped by Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character is not worth a crash
    errors = Console(stderr=True)
    try:
        return parse(sys.argv[1:] if arguments is None else arguments).run()
    except WaltzError as error:
        errors.print(f"[bold red]{type(error).__name__}:[/] ", end="")
        errors.print(str(error), markup=False, highlight=False)
        return 2
    except KeyboardInterrupt:
        return 130


def parse(arguments: Sequence[str]) -> Command:
    """The command that the arguments describe.

    Raises:
        SystemExit: the arguments are malformed, or ask for help.
        UsageError: a name among the arguments is unknown, or a flag would be ignored.
    """
    name, *rest = arguments or [""]
    train, spelled_out = train_command(rest if name == "train" else [])
    if name == "train":
        arguments = [name, *spelled_out]
    commands: Any = (
        Annotated[train, tyro.conf.subcommand("train", description=train_help())]
        | Evaluate
        | Report
        | Rejudge
        | Rescore
        | Benchmark
        | Play
        | Serve
    )
    command: Command = tyro.cli(commands, prog="waltz", description=__doc__, args=list(arguments), registry=REGISTRY)
    return command
