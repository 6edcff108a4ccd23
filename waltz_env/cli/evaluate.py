"""``waltz evaluate``: plays a trained run on any prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from accelerate import Accelerator
from rich.console import Console

from waltz_env.algorithms import play_held_out
from waltz_env.cli.results import add_system, show
from waltz_env.cli.train import TRAINED
from waltz_env.presets.run import load_run
from waltz_env.prompts import PromptSet
from waltz_env.records import write_games


@dataclass(frozen=True)
class Evaluate:
    """Plays a trained run on prompts and writes ``results.json`` and ``games.jsonl``.

    Attributes:
        run_folder: folder of a run, as ``waltz train`` printed it.
        out: folder for the results.
        prompts: builtin:test, builtin:train, or a JSONL file with ``text`` and ``kind`` in each line.
        samples: games on each prompt.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    out: Path
    prompts: str = "builtin:test"
    samples: int = 1

    def run(self) -> int:
        """Plays and reports; see ``main`` for the exit code."""
        accelerator = Accelerator()
        prompts = PromptSet.load(self.prompts)
        recipe, bench = load_run(self.run_folder, accelerator)
        rounds = recipe.stages()[-1].max_rounds
        games = play_held_out(bench.agents, bench.judge, list(prompts) * self.samples, rounds, accelerator)
        if accelerator.is_main_process:
            write_games(self.out / "games.jsonl", games, tokens=False)
            about = {
                "run": str(self.run_folder),
                "prompts": self.prompts,
                "samples_a_prompt": self.samples,
                "temperature": 1.0,
            }
            show(add_system(self.out, TRAINED[recipe.method], {"prompts": games}, about), Console())
        return 0
