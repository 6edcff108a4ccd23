"""``waltz distill``: the conversation agent of a run learns to answer alone as its pair does."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from waltz_env.cli.arguments import parse_into
from waltz_env.cli.processes import processes
from waltz_env.cli.progress import FitBar, WatchBar, hide_loading_bars
from waltz_env.cli.tables import close, show, show_categories, show_comparisons, show_extras
from waltz_env.experiments.distillation import DistillConfig, distill
from waltz_env.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Distill:
    """Teach the conversation agent of a run to answer at once what the games of its training arrived at.

    It learns from drafts and revisions that the judge called satisfactory, by supervised learning. The result is a run
    folder for evaluate, play, serve and export, whose conversation agent answers without feedback. Its rates and its
    latency are shown next to the pair's.

    For example: waltz distill runs/mine --out runs/mine-alone

    Attributes:
        run_folder: folder of a run with its training games.
        out: folder of the distilled run. The same command continues where it was stopped.
        config: how to learn, and what to measure.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    out: Path
    config: Annotated[DistillConfig, tyro.conf.arg(name="")] = field(default_factory=DistillConfig)

    def run(self) -> int:
        """Learn and report; see ``main`` for the exit code."""
        hide_loading_bars()
        out = RunFolder(self.out)
        with processes() as accelerator, WatchBar() as progress:
            results = distill(
                RunFolder(self.run_folder),
                out,
                config=self.config,
                accelerator=accelerator,
                on_step=FitBar("distillation"),
                progress=progress,
            )
        about = results["distilled"]
        print(f"Learned from {about['drafts']} drafts and {about['revisions']} revisions of {self.run_folder}.")
        show(results["sets"])
        show_categories(results["sets"])
        show_comparisons(results["sets"])
        show_extras(results)
        shown = shlex.quote(str(self.out))
        return close(results, out, then=[f"serve {shown}", f"evaluate {shown} --prompts SET --out FOLDER"])


def parse(arguments: Sequence[str]) -> Distill:
    """The command with its arguments; see ``parse_into``."""
    return parse_into(Distill, "distill", arguments)
