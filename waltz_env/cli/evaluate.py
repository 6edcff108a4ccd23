"""``waltz evaluate``: systems compared on the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from accelerate import Accelerator

from waltz_env.checks import check_distinct
from waltz_env.cli.arguments import parse_into
from waltz_env.cli.cross_tables import show_cross_play
from waltz_env.cli.processes import processes
from waltz_env.cli.progress import WatchBar, hide_loading_bars
from waltz_env.cli.tables import close, show, show_categories, show_comparisons, show_extras
from waltz_env.errors import UsageError
from waltz_env.experiments.cross_evaluation import cross_play
from waltz_env.experiments.evaluation import EvaluationConfig, evaluate
from waltz_env.experiments.pairs import laboratory_note
from waltz_env.experiments.servers import Servers
from waltz_env.prompts import PromptSet
from waltz_env.prompts.sources import set_name
from waltz_env.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Play the systems of runs and of chat servers on the same prompts: rates, paired comparisons, games.

    The untrained systems (baseline, baseline with a safeguard, untrained pair, oracle feedback) are those of the first
    run. Each run adds what it has trained; single-model training also adds itself with a safeguard. Systems are saved
    as soon as they are played: the same command continues where it was stopped.

    Chat servers can be evaluated without a run; name --prompts and --judge then. With --conversation-url alone, that
    server answers, a model or a whole pair; with --feedback-url too, the two play the game. $OPENAI_API_KEY is sent to
    them.

    With --cross, the conversation agent of each run plays with the feedback agent of each run, for all pairs, and with
    the agents that the runs started from.

    For example: waltz evaluate runs/mine --prompts builtin:test --out results

    Attributes:
        out: folder for results.json and the games.
        runs: run folders, as ``waltz train`` printed them. Two runs of the same method are told apart by their names.
        cross: play all pairs of these runs' agents; of the other settings, only samples, judge, untrained and
            exclude-unreadable apply.
        prompts: sets of prompts, see docs/data.md; the default is the held-out sets of the first run.
        config: what to play and to measure.
        servers: chat servers that play.
    """

    out: Path
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")] = ()
    cross: bool = False
    prompts: tuple[str, ...] = ()
    config: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluationConfig)
    servers: Annotated[Servers, tyro.conf.arg(name="")] = field(default_factory=Servers)

    def run(self) -> int:
        """Play and report; see ``main`` for the exit code."""
        names = [set_name(spec) for spec in self.prompts]
        check_distinct(names, "sets of prompts")
        prompts = {name: PromptSet.load(spec) for name, spec in zip(names, self.prompts, strict=True)}
        hide_loading_bars()
        with processes() as accelerator:
            return self._evaluate(prompts, accelerator)

    def _evaluate(self, prompts: Mapping[str, PromptSet], accelerator: Accelerator) -> int:
        runs, out = [RunFolder(path) for path in self.runs], RunFolder(self.out)
        if prompts and accelerator.is_main_process:
            for note in dict.fromkeys(filter(None, map(laboratory_note, runs))):
                print(note)
        if self.cross:
            return self._cross(runs, out, prompts, accelerator)
        with WatchBar() as progress:
            results = evaluate(
                runs,
                out,
                prompts=prompts or None,
                config=self.config,
                servers=self.servers,
                accelerator=accelerator,
                progress=progress,
            )
        if accelerator.is_main_process:
            for system, about in results.get("runs", {}).items():
                if about.get("interrupted"):
                    print(f"{system} was interrupted; its newest checkpoint was played.")
            show(results["sets"])
            show_categories(results["sets"])
            show_comparisons(results["sets"])
            show_extras(results)
            return close(results, out, also=[path for path in self.runs if RunFolder(path).results.exists()])
        return 0

    def _cross(
        self, runs: Sequence[RunFolder], out: RunFolder, prompts: Mapping[str, PromptSet], accelerator: Accelerator
    ) -> int:
        if self.servers.models:
            raise UsageError("--cross plays the agents of runs; leave out --conversation-url and --feedback-url.")
        with WatchBar("pair") as progress:
            results = cross_play(
                runs, out, prompts=prompts or None, config=self.config, accelerator=accelerator, progress=progress
            )
        if accelerator.is_main_process:
            show_cross_play(results["cross_play"])
            print(f"Figures: {', '.join(str(out.cross_play(name)) for name in results['cross_play'])}")
            return close(results, out)
        return 0


def parse(arguments: Sequence[str]) -> Evaluate:
    """The command with its arguments; see ``parse_into``."""
    return parse_into(Evaluate, "evaluate", arguments)
