"""Progress on the terminal."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from waltz_env.algorithms.training.loop import StepReport

SHOWN = ("r_c_first", "r_c", "ftr", "label_accuracy")


def hide_loading_bars() -> None:
    """Turn off the bars that transformers shows while it reads weights; bars of downloads stay."""
    from transformers.utils import logging

    logging.disable_progress_bar()


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
