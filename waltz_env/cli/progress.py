"""Progress on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from waltz_env.algorithms.training.loop import StepReport
    from waltz_env.experiments.jobs import Job
    from waltz_env.experiments.watch import Done

_ANY = 0  # any change is shown once the interval between two draws has passed, also one of the text alone
SHOWN = ("r_c_first", "r_c", "ftr", "label_accuracy")


def hide_loading_bars() -> None:
    """Turn off the bars that transformers shows while it reads weights; bars of downloads stay."""
    from transformers.utils import logging

    logging.disable_progress_bar()


class WatchBar:
    """The ``progress`` hook of evaluations: one bar over the parts, with what has been done in the current one.

    Args:
        unit: what a part is called.
    """

    def __init__(self, unit: str = "system") -> None:
        self.unit = unit
        self.bar: tqdm[Any] | None = None

    def __call__(self, done: Done) -> None:
        if self.bar is None:
            self.bar = tqdm(total=done.of, unit=self.unit, miniters=_ANY)
        counts = {"turns": done.turns, "verdicts": done.verdicts}
        self.bar.set_description(done.now, refresh=False)
        self.bar.set_postfix({name: count for name, count in counts.items() if count}, refresh=False)
        self.bar.update(done.parts - self.bar.n)
        if done.parts == done.of:
            self._close()

    def __enter__(self) -> WatchBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class FitBar:
    """The ``on_step`` hook of supervised learning: a bar that appears with the first step.

    Args:
        name: what is learned.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: tqdm[Any] | None = None

    def __call__(self, step: int, of: int) -> None:
        if self._bar is None:
            self._bar = tqdm(total=of, desc=self._name)
        self._bar.update()
        if step == of:
            self._bar.close()


class StepBar:
    """The ``progress`` hook of benchmarks: one bar over the training steps of all runs.

    Args:
        shared: jobs that make what the runs of a seed share.
        runs: the runs.
    """

    def __init__(self, shared: Sequence[Job], runs: Sequence[Job]) -> None:
        self._shared, self._runs = shared, runs
        self._bar = tqdm(total=sum(job.steps for job in runs), unit="step", miniters=_ANY)

    def __call__(self, ended: Sequence[Job]) -> None:
        steps = sum(job.steps if job in ended else min(job.steps, job.steps_done()) for job in self._runs)
        shared, runs = (sum(job in ended for job in jobs) for jobs in (self._shared, self._runs))
        begun = shared == len(self._shared)
        now = f"{runs} of {len(self._runs)} runs" if begun else f"{shared} of {len(self._shared)} untrained pairs"
        self._bar.set_description(now, refresh=False)
        self._bar.update(steps - self._bar.n)

    def __enter__(self) -> StepBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()


class ProgressBar:
    """The ``progress`` hook of ``train`` as one bar per stage."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def __call__(self, report: StepReport) -> None:
        if not report.metrics:  # a stage begins
            self._close()
            self._bar = tqdm(total=report.stage.steps, initial=report.step_in_stage, desc=report.stage.name)
        elif self._bar is not None:
            shown = {name: f"{report.metrics[f'games/{name}']:.2f}" for name in SHOWN}
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update()
            if report.step_in_stage == report.stage.steps:
                self._close()  # what follows the stage, such as an evaluation, is not part of its time

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
