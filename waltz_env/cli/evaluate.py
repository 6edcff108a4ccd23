"""``waltz evaluate``: systems side by side on the same prompts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from accelerate import Accelerator
from rich.console import Console

from waltz_env.algorithms.training.saved_state import describe
from waltz_env.cli.capabilities import capabilities
from waltz_env.cli.results import add_systems, players, show, show_extras
from waltz_env.cli.systems import TRAINED, Systems, trained_systems, untrained_systems
from waltz_env.errors import UsageError
from waltz_env.judges import RequestClassifier, load_judge
from waltz_env.presets import Recipe, workbench
from waltz_env.presets.run import load_weights, newest_checkpoint, read_recipe
from waltz_env.prompts import PromptSet
from waltz_env.rules import Rules
from waltz_env.serving.latency import latency
from waltz_env.types import CONVERSATION

CLASSIFIER = "classifier"


@dataclass(frozen=True)
class Evaluate:
    """Plays the systems that runs stand for on the same prompts: rates, paired comparisons, games.

    The untrained systems (baseline, baseline with a safeguard, untrained pair, oracle feedback) are those of the first
    run; each run adds what it has trained, and single-model training adds itself with a safeguard too.

    Attributes:
        runs: folders of runs, as ``waltz train`` printed them. Two of the same method are told apart by their names.
        out: folder for ``results.json`` and the games.
        prompts: sets of prompts, see docs/data.md; the held-out sets of the first run by default.
        samples: games on each prompt.
        judge: labels every response, by name; that of the first run's training by default.
        safeguard: a judge by name, or classifier: a linear classifier of requests, fitted on the first run's training
            prompts.
        untrained: whether to play the untrained systems.
        latency: prompts of the first set to time the last run on: alone, with the safeguard, always on, adaptive.
        capabilities: tasks of lm-evaluation-harness for the conversation agent of the last run and for its base; a task
            of your own is FOLDER/NAME.yaml.
        capability_limit: questions a task at most; all by default.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    out: Path
    prompts: tuple[str, ...] = ()
    samples: int = 1
    judge: str | None = None
    safeguard: str = CLASSIFIER
    untrained: bool = True
    latency: int = 0
    capabilities: tuple[str, ...] = ()
    capability_limit: int | None = None

    def run(self) -> int:
        """Plays and reports; see ``main`` for the exit code."""
        if not self.runs:
            raise UsageError("Name at least one run: waltz evaluate RUN --out FOLDER.")
        accelerator = Accelerator()
        console = Console()
        named = {_set_name(spec): PromptSet.load(spec) for spec in self.prompts}
        recipes = [read_recipe(folder) for folder in self.runs]
        systems = _names(self.runs, recipes)
        _check_distinct([_set_name(spec) for spec in self.prompts], "sets of prompts")
        _check_distinct(systems, "runs")
        for folder in self.runs:
            newest_checkpoint(folder)  # before anything is built
        bench = workbench(recipes[0], self.runs[0], accelerator)
        judge = load_judge(self.judge) if self.judge else bench.judge
        guard = RequestClassifier(bench.prompts) if self.safeguard == CLASSIFIER else load_judge(self.safeguard)
        prompts = {name: list(each) * self.samples for name, each in (named or bench.tests).items()}
        about: dict[str, Any] = {
            "runs": {
                system: {"folder": str(folder), **describe(**vars(recipe))}
                for system, folder, recipe in zip(systems, self.runs, recipes, strict=True)
            },
            "judge": self.judge or recipes[0].judge or type(judge).__name__,
            "training_judge": recipes[0].judge or type(bench.judge).__name__,
            "safeguard": self.safeguard,
            "samples_a_prompt": self.samples,
            "players": players(bench),
        }

        def keep(name: str, played: Systems) -> None:
            if accelerator.is_main_process:  # at once: what is played is not lost if something fails later
                add_systems(self.out, {name: played}, about)

        if self.untrained:
            for name, each in prompts.items():
                keep(
                    name,
                    untrained_systems(
                        bench.agents,
                        judge,
                        each,
                        rounds=recipes[0].max_rounds,
                        guard=guard,
                        oracle=True,
                        accelerator=accelerator,
                    ),
                )
        for folder, recipe, system in zip(self.runs, recipes, systems, strict=True):
            if folder != self.runs[0]:
                bench = workbench(recipe, folder, accelerator)
            if not load_weights(folder, bench):
                console.print(f"{folder} was interrupted; its newest checkpoint is played.", soft_wrap=True)
                about["runs"][system]["interrupted"] = True
            for name, each in prompts.items():
                keep(
                    name,
                    trained_systems(
                        recipe, bench.agents, judge, each, name=system, guard=guard, accelerator=accelerator
                    ),
                )
        if accelerator.is_main_process:
            if self.latency:
                timed = next(iter(prompts.values()))[: self.latency]
                about["latency"] = latency(
                    timed, bench.agents, guard=guard, rules=Rules(max_rounds=recipes[-1].max_rounds)
                )
            if self.capabilities:
                about["capabilities"] = capabilities(
                    bench.policies[CONVERSATION], self.capabilities, limit=self.capability_limit
                )
            show(add_systems(self.out, {}, about), console)
            show_extras(about, console)
        return 0


def _check_distinct(names: Sequence[str], what: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"Two {what} would both be called {', '.join(twice)}; rename a folder or a file.")


def _set_name(spec: str) -> str:
    """The name of a set of prompts, fit for a file's: ``builtin-test``, ``mine`` for ``data/mine.jsonl``."""
    return re.sub(r"\W+", "-", Path(spec).stem)


def _names(runs: Sequence[Path], recipes: Sequence[Recipe]) -> list[str]:
    """What each run's system is called: by its method, or by its folder where two runs have the same method."""
    methods = [recipe.method for recipe in recipes]
    return [
        TRAINED[method] if methods.count(method) == 1 else folder.resolve().name
        for folder, method in zip(runs, methods, strict=True)
    ]
