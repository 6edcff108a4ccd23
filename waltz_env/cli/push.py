"""``waltz push``: what a run has trained, on the Hugging Face hub."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from waltz_env.cli.arguments import parse_into
from waltz_env.cli.progress import hide_loading_bars
from waltz_env.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Push:
    """Upload the trained weights of a run to the Hugging Face hub, with a model card; private without --public.

    Log in first: hf auth login.

    For example: waltz push runs/mine --to me/pair --merged

    Attributes:
        run_folder: folder of a finished run.
        to: repository, USER/NAME; it is created if it does not exist.
        merged: upload whole models, with the adapters merged into their base.
        role: the role to upload; by default each role that the run has trained.
        base: name of the base model on the hub, for runs that loaded it from a folder.
        games: upload the games too, as Parquet, to the data set USER/NAME-games. They hold harmful prompts and answers.
        public: let everybody see what is uploaded.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    to: str
    merged: bool = False
    role: Literal["conversation", "feedback"] | None = None
    base: str | None = None
    games: bool = False
    public: bool = False

    def run(self) -> int:
        """Upload; see ``main`` for the exit code."""
        from waltz_env.export.push import push_run

        hide_loading_bars()
        if self.games:
            from waltz_env.export.parquet import WARNING

            readers = "Everybody" if self.public else "Whoever may read the data set"
            print(f"{WARNING} {readers} will see that.", file=sys.stderr)
        addresses = push_run(
            RunFolder(self.run_folder),
            self.to,
            role=self.role,
            merged=self.merged,
            base_name=self.base,
            games=self.games,
            public=self.public,
        )
        print("\n".join(addresses))
        return 0


def parse(arguments: Sequence[str]) -> Push:
    """The command with its arguments; see ``parse_into``."""
    return parse_into(Push, "push", arguments)
