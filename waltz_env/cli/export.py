"""``waltz export``: what a run has trained, for other people's libraries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from waltz_env.cli.arguments import parse_into
from waltz_env.cli.progress import hide_loading_bars
from waltz_env.errors import UsageError
from waltz_env.export.preferences import preference_rows, supervised_rows, write_rows
from waltz_env.records import training_games
from waltz_env.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Export:
    """Write the trained weights of a run to a folder that transformers, PEFT and vLLM load, with a model card.

    Or write its training games as data for other trainers: preferences between a draft and its revision, or
    satisfactory answers to imitate. Games hold harmful prompts.

    For example: waltz export runs/mine --to pair

    Attributes:
        run_folder: folder of a finished run.
        to: folder to write; it must not exist yet, or be empty.
        preferences: JSONL file to write with rows of prompt, chosen and rejected, for DPO in TRL.
        sft: JSONL file to write with rows of prompt and completion, for supervised fine-tuning in TRL.
        merged: write whole models, with the adapters merged into their base.
        role: the role to export; by default each role that the run has trained.
        base: name of the base model on the hub, for runs that loaded it from a folder; the default copies that folder.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    to: Path | None = None
    preferences: Path | None = None
    sft: Path | None = None
    merged: bool = False
    role: Literal["conversation", "feedback"] | None = None
    base: str | None = None

    def run(self) -> int:
        """Export; see ``main`` for the exit code."""
        if self.to is None and (self.merged or self.role or self.base):
            raise UsageError("--merged, --role and --base are about the weights. Add --to FOLDER, which exports them.")
        if self.to is None and self.preferences is None and self.sft is None:
            raise UsageError("Name what to export: --to FOLDER, --preferences FILE or --sft FILE.")
        run = RunFolder(self.run_folder)
        if self.preferences is not None or self.sft is not None:
            self._games(run)
        if self.to is not None:
            from waltz_env.export.folder import CARD, export_run

            hide_loading_bars()
            export_run(run, self.to, role=self.role, merged=self.merged, base_name=self.base)
            print(f"{self.to}: {self.to / CARD} says how to load and serve it.")
        return 0

    def _games(self, run: RunFolder) -> None:
        from waltz_env.experiments.saved_run import read_recipe

        read_recipe(run)  # an unknown run is an error that names the nearest one
        games = [game for step in training_games(run) for game in step]
        for path, rows in ((self.preferences, preference_rows), (self.sft, supervised_rows)):
            if path is not None:
                found = rows(games)
                write_rows(path, found)
                print(f"{path}: {len(found)} rows from {len(games)} training games.")


def parse(arguments: Sequence[str]) -> Export:
    """The command with its arguments; see ``parse_into``."""
    return parse_into(Export, "export", arguments)
