"""Trains, evaluates, plays and serves pairs of language models that make each other safe and helpful."""

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
from waltz_env.cli.train import Train
from waltz_env.errors import WaltzError
from waltz_env.presets import PRESETS, preset

DEFAULT_PRESET = "nano"


class Command(Protocol):
    """A command with its arguments."""

    def run(self) -> int:
        """Runs it and gives the exit code."""
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit code: 0 done, 2 a usage error, 130 stopped by Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character is not worth a crash
    errors = Console(stderr=True)
    try:
        command: Command = tyro.cli(
            _commands(arguments), prog="waltz", description=__doc__, args=arguments, registry=REGISTRY
        )
        return command.run()
    except WaltzError as error:
        errors.print(f"[bold red]{type(error).__name__}:[/] ", end="")
        errors.print(str(error), markup=False, highlight=False)
        return 2
    except KeyboardInterrupt:
        return 130


def _commands(arguments: Sequence[str]) -> Any:
    """The commands; the defaults of ``train`` are those of the preset that the arguments name."""
    recipe = preset(_value(arguments, "--preset") or DEFAULT_PRESET).recipe
    train = Annotated[Train, tyro.conf.subcommand("train", default=Train(recipe), description=_train_help())]
    return train | Evaluate | Report | Rejudge | Rescore | Benchmark | Play | Serve


def _value(arguments: Sequence[str], flag: str) -> str | None:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == flag:
            return following
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
    return None


def _train_help() -> str:
    presets = "\n".join(f"  {name}: {each.summary}" for name, each in PRESETS.items())
    return f"{(Train.__doc__ or '').splitlines()[0]}\n\nPresets:\n{presets}"
