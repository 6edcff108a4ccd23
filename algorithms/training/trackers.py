"""The trackers that can be named: trackio, Weights & Biases, those of other packages, and any by its dotted path."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from waltz_env.algorithms.training.tracking import GameTrace, Tracker
from waltz_env.errors import UsageError
from waltz_env.extras import missing
from waltz_env.resolve import resolve
from waltz_env.types import CONVERSATION

ENTRY_POINTS = "waltz_env.trackers"
PROJECT = "waltz"


def tracker(name: str) -> Tracker:
    """The tracker called ``name``: ``trackio``, ``wandb``, an entry point, or a dotted path such as ``my:Tracker``.

    Raises:
        UsageError: there is no such tracker, its library is not installed, or nobody is logged in.
    """
    return resolve(
        "tracker",
        name,
        known=TRACKERS,
        expected=Tracker,  # type: ignore[type-abstract]  # a protocol stands for the objects that satisfy it
        entry_points=ENTRY_POINTS,
    )


class Trackio:
    """trackio: a dashboard on this machine, or in a Space or on a server if ``$TRACKIO_SPACE_ID`` and the like say so.

    Its project is ``$TRACKIO_PROJECT``, or ``waltz``. A game is a trace, which the dashboard shows as a chat.

    Raises:
        UsageError: trackio is not installed.
    """

    def __init__(self) -> None:
        self._library = _imported("trackio")
        self._run: Any = None

    def open(self, run: str, *, settings: Mapping[str, Any]) -> None:
        """Begin or continue a run of the project."""
        project = os.environ.get("TRACKIO_PROJECT") or PROJECT
        try:
            self._run = self._library.init(project=project, name=run, resume="allow", config=dict(settings))
        except (ValueError, OSError) as error:  # the name of the project, or where its data should go
            raise UsageError(f"trackio cannot be used: {error}") from error

    def log(self, step: int, *, metrics: Mapping[str, float], games: Sequence[GameTrace]) -> None:
        """Log the metrics, and one trace per game."""
        traces = [self._library.Trace(_messages(game), metadata=_verdicts(game)) for game in games]
        self._run.log({**metrics, "traces": traces}, step=step)

    def close(self) -> None:
        """Wait until everything is written."""
        if self._run is not None:
            self._run.finish()


class WeightsAndBiases:
    """Weights & Biases: the dashboard of an account, or files to be synchronized later with ``$WANDB_MODE=offline``.

    Its project is ``$WANDB_PROJECT``, or ``waltz``. The games of a step are a table with one row per game.

    Raises:
        UsageError: wandb is not installed, or it is online and nobody is logged in.
    """

    def __init__(self) -> None:
        self._library = _imported("wandb")
        self._run: Any = None
        try:
            self._library.login(verify=False)  # asks for a key now, and not after the warm start
        except self._library.Error as error:
            raise UsageError(
                f"wandb cannot be used: {error} Or keep the run on this machine: WANDB_MODE=offline."
            ) from error

    def open(self, run: str, *, settings: Mapping[str, Any]) -> None:
        """Begin or continue a run of the project."""
        project = os.environ.get("WANDB_PROJECT") or PROJECT
        try:
            self._run = self._library.init(
                project=project, id=run, name=run, resume="allow", reinit="create_new", config=dict(settings)
            )
        except self._library.Error as error:
            raise UsageError(f"wandb cannot be used: {error}") from error

    def log(self, step: int, *, metrics: Mapping[str, float], games: Sequence[GameTrace]) -> None:
        """Log the metrics and the table."""
        rows = [_row(game) for game in games]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        data = [[row.get(name) for name in columns] for row in rows]
        self._run.log({**metrics, "traces": self._library.Table(columns=columns, data=data)}, step=step)

    def close(self) -> None:
        """Wait until everything is written."""
        if self._run is not None:
            self._run.finish()


TRACKERS: Mapping[str, type[Tracker]] = {"trackio": Trackio, "wandb": WeightsAndBiases}


def _imported(library: str) -> Any:
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        known = missing(error)
        if known is None:
            raise
        raise known from error


def _messages(game: GameTrace) -> list[dict[str, str]]:
    """The game as a chat: its user is the prompt's, then the feedback agent."""
    chat = [{"role": each["role"], "content": each["content"]} for each in game.prompt.history]
    chat.append({"role": "user", "content": game.prompt.text})
    for turn in game.turns:
        role = "assistant" if turn.agent == CONVERSATION else "user"
        chat.append({"role": role, "name": turn.name, "content": turn.text})
    return chat


def _verdicts(game: GameTrace) -> dict[str, str | float | None]:
    """The prompt's identifier and kind, then labels and reward of each turn."""
    verdicts: dict[str, str | float | None] = {**game.about}
    for turn in game.turns:
        verdicts |= {f"{turn.name}_labels": turn.labels, f"{turn.name}_reward": turn.reward}
    return verdicts


def _row(game: GameTrace) -> dict[str, str | float | None]:
    """One row of a table: the same, with the texts before them."""
    texts = {turn.name: turn.text for turn in game.turns}
    prompt = "\n".join([*(f"[{each['role']}] {each['content']}" for each in game.prompt.history), game.prompt.text])
    return {"prompt": prompt, **texts, **_verdicts(game)}
