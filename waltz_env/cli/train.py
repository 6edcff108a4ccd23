"""``waltz train``: trains a pair by a preset, evaluates it on held-out prompts, leaves everything in one folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tyro
from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.console import Console

from waltz_env.algorithms import train
from waltz_env.algorithms.training import checkpoint
from waltz_env.cli.curves import draw_curves
from waltz_env.cli.results import about_run, add_systems, read_sets, show
from waltz_env.cli.systems import trained_systems, untrained_systems
from waltz_env.errors import UsageError
from waltz_env.presets import Recipe, workbench
from waltz_env.presets.run import CONFIG, read_recipe, write_recipe


@dataclass(frozen=True)
class Train:
    """Trains a pair and evaluates it on prompts that it never saw.

    Attributes:
        recipe: the settings.
        out: the run's folder; a new one under ``runs/`` by default.
        resume: folder of an interrupted run to continue exactly; its own settings hold, others are ignored.
    """

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    out: Path | None = None
    resume: Path | None = None

    def run(self) -> int:
        """Trains; see ``main`` for the exit code."""
        console = Console()
        start = time.perf_counter()
        recipe = read_recipe(self.resume) if self.resume else self.recipe
        folder = self.resume or self.out or _new_folder(recipe)
        if not self.resume and (folder / CONFIG).exists():
            raise UsageError(
                f"{folder} holds a run already. Continue it with --resume {folder}, or choose another --out."
            )
        accelerator = Accelerator()
        # The first process decides for all: others may see another second of the clock, or what it has written since.
        folder, evaluated = gather_object([(folder, bool(read_sets(folder)))])[0]
        bench = workbench(recipe, folder, accelerator)
        about = about_run(recipe, bench)
        tests = {name: list(prompts) * recipe.test_samples for name, prompts in bench.tests.items()}
        if accelerator.is_main_process:
            write_recipe(folder, recipe)
        if not evaluated:
            untrained = {
                name: untrained_systems(
                    bench.agents, bench.judge, prompts, rounds=recipe.rounds, accelerator=accelerator
                )
                for name, prompts in tests.items()
            }
            if accelerator.is_main_process:
                add_systems(folder, untrained, about)
        finished = train(
            bench.policies,
            bench.agents,
            judge=bench.judge,
            prompts=bench.stage_prompts or bench.prompts,
            stages=recipe.stages(),
            folder=folder,
            config=recipe.loop,
            seed=recipe.seed,
            accelerator=accelerator,
            validation=bench.validation,
            resume=self.resume is not None and checkpoint.latest(folder / "checkpoints") is not None,
        )
        if not finished:
            console.print(f"Stopped. Continue with: waltz train --resume {folder}", highlight=False, soft_wrap=True)
            return 130
        trained = {
            name: trained_systems(recipe, bench.agents, bench.judge, prompts, accelerator=accelerator)
            for name, prompts in tests.items()
        }
        if accelerator.is_main_process:
            add_systems(folder, trained, about)
            for name, policy in bench.policies.items():
                policy.save(folder / "weights" / name)
            draw_curves(folder)
            show(read_sets(folder), console)
            console.print(f"{time.perf_counter() - start:.0f} s. Run folder: {folder}", highlight=False, soft_wrap=True)
        return 0


def _new_folder(recipe: Recipe) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{recipe.preset.replace(':', '.')}-{recipe.method}-seed{recipe.seed}-{stamp}"
