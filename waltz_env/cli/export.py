"""``waltz export``: what a run has trained, for other people's libraries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from waltz_env.cli.arguments import parse_into
from waltz_env.cli.progress import hide_loading_bars
from waltz_env.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Export:
    """Write what a run has trained to a folder that transformers, PEFT and vLLM load, with a model card.

    For example: waltz export runs/mine --to pair

    Attributes:
        run_folder: folder of a finished run.
        to: folder to write; it must not exist yet, or be empty.
        merged: write whole models, with the adapters merged into their base.
        role: the role to export; by default each role that the run has trained.
        base: name on the hub of the base model, for runs that have it from a folder. By default such a base is copied.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    to: Path
    merged: bool = False
    role: Literal["conversation", "feedback"] | None = None
    base: str | None = None

    def run(self) -> int:
        """Export; see ``main`` for the exit code."""
        from waltz_env.export.folder import CARD, export_run

        hide_loading_bars()
        export_run(RunFolder(self.run_folder), self.to, role=self.role, merged=self.merged, base_name=self.base)
        print(f"{self.to}: how it is loaded and served stands in {self.to / CARD}.")
        return 0


def parse(arguments: Sequence[str]) -> Export:
    """The command with its arguments; see ``parse_into``."""
    return parse_into(Export, "export", arguments)
