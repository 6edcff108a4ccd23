"""The layout of a folder that a run or an evaluation leaves behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waltz_env.errors import DataError, UsageError
from waltz_env.files import atomic_path
from waltz_env.strict_json import dump_json

SCHEMA = 2
"""Layout and contents of ``config.json`` and ``results.json``; version 0.1 wrote neither with a schema."""

LONGEST_NAME = 110
"""Bytes in the name of a set of prompts or a system; most file systems take 255 for both together and what is added."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where everything of a run is. Nothing else in the project knows a file's name.

    ====================================  ============================================================================
    ``config.json``                       settings of the run: everything that training it again needs
    ``metrics.jsonl``, ``tensorboard/``   metrics of each step
    ``games/training/step-00001.jsonl``   training games of each step
    ``games/held-out/SET-SYSTEM.jsonl``   games of each system on each held-out set
    ``games/earlier/SET-SYSTEM.jsonl``    the same with the labels of the earlier judge, after ``waltz rejudge``
    ``results.json``                      rates of each system on each set, with comparisons
    ``checkpoints/``                      what ``--resume`` continues from
    ``weights/AGENT/``                    trained adapter or model of each agent
    ``base/``                             base model, where the preset builds one on the spot
    ``prompts/``                          prompts, where the preset gathers them on the spot
    ``curves.png``, ``report.html``       figures and the report
    ``cross-play-SET.png``                matrix of an evaluation that crosses the agents of several runs
    ``tracking.json``                     name of the run in trackers, and the newest step that they surely have
    ====================================  ============================================================================

    An evaluation leaves nothing but ``results.json`` and ``games/``.

    Args:
        path: the folder itself, which need not exist yet.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def training_games(self) -> Path:
        return self.path / "games" / "training"

    @property
    def held_out_games(self) -> Path:
        return self.path / "games" / "held-out"

    def unfinished_games_of_system(self, prompt_set: str, system: str) -> Path:
        """Games of one system that are being judged; the file is gone when all are.

        Raises:
            UsageError: as in ``games_of_system``.
        """
        return self.held_out_games / f"{_file_name(prompt_set)}-{_file_name(system)}.jsonl.part"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        return self.path / "weights"

    @property
    def base(self) -> Path:
        return self.path / "base"

    @property
    def prompts(self) -> Path:
        return self.path / "prompts"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    def cross_play(self, prompt_set: str) -> Path:
        """Figure of an evaluation that crosses the agents of several runs, on one held-out set."""
        return self.path / f"cross-play-{_file_name(prompt_set)}.png"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def tracking(self) -> Path:
        return self.path / "tracking.json"

    def games_of_step(self, step: int) -> Path:
        """Training games of one step, counted from 1 over all stages."""
        return self.training_games / f"step-{step:05d}.jsonl"

    def games_of_system(self, prompt_set: str, system: str) -> Path:
        """Games of one system on one held-out set of prompts.

        Raises:
            UsageError: a file cannot have such a name.
        """
        return self.held_out_games / f"{_file_name(prompt_set)}-{_file_name(system)}.jsonl"

    def earlier_games_of_system(self, prompt_set: str, system: str) -> Path:
        """The same games with the labels of the judge before, where they were judged again."""
        return self.path / "games" / "earlier" / f"{prompt_set}-{system}.jsonl"

    def has_config(self) -> bool:
        """Whether this is the folder of a run; a Hugging Face model has a ``config.json`` too, of another kind."""
        try:
            content = json.loads(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(content, dict) and "preset" in content

    def read_config(self) -> dict[str, Any]:
        """The settings of the run as plain JSON values.

        Raises:
            DataError: there are none, they are damaged, or another version wrote them.
        """
        return renamed(_read(self.config))

    def write_config(self, settings: dict[str, Any]) -> None:
        """Write the settings of the run."""
        _write(self.config, settings)

    def read_results(self) -> dict[str, Any]:
        """``results.json``; empty if there is none yet.

        Raises:
            DataError: it is damaged, or another version wrote it.
        """
        return _read(self.results) if self.results.exists() else {}

    def write_results(self, results: dict[str, Any]) -> None:
        """Write ``results.json``."""
        _write(self.results, results)

    def read_tracking(self) -> dict[str, Any]:
        """``tracking.json``; empty if no tracker has been opened.

        Raises:
            DataError: it is damaged, or another version wrote it.
        """
        return _read(self.tracking) if self.tracking.exists() else {}

    def write_tracking(self, tracking: dict[str, Any]) -> None:
        """Write ``tracking.json``."""
        _write(self.tracking, tracking)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; none if training has not begun. A line cut short by a crash ends the list."""
        lines: list[dict[str, Any]] = []
        for line in self.metrics.read_bytes().splitlines() if self.metrics.exists() else ():
            try:
                content = json.loads(line)
            except ValueError:
                break
            if not isinstance(content, dict):
                break
            lines.append(content)
        return lines


def _file_name(name: str) -> str:
    if {"/", "\\", "\0"}.intersection(name) or not 0 < len(name.encode()) <= LONGEST_NAME:
        raise UsageError(
            "The name of a set of prompts or of a system becomes part of a file's name: no slashes, and from 1 to "
            f"{LONGEST_NAME} bytes; got {name!r}."
        )
    return name


def renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run as JSON values with the names of this version: ``branches`` was ``games_per_prompt``."""
    loop = settings.get("loop")
    if not isinstance(loop, dict) or "games_per_prompt" not in loop:
        return dict(settings)
    others = {name: value for name, value in loop.items() if name != "games_per_prompt"}
    return {**settings, "loop": others | {"branches": [loop["games_per_prompt"], 1, 1]}}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a JSON object; got {type(content).__name__}.")
    if content.get("schema") != SCHEMA:
        wrote = "waltz_env 0.1" if "schema" not in content else f"a version with schema {content['schema']!r}"
        raise DataError(
            f"{path} was written by {wrote}, whose layout this version (schema {SCHEMA}) cannot read. Use the version "
            "that wrote it, or train and evaluate again."
        )
    return {name: value for name, value in content.items() if name != "schema"}


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(dump_json({"schema": SCHEMA} | content, indent=1) + "\n", encoding="utf-8")
