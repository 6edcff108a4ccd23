"""A training run shown in experiment trackers, beside the files of its run folder."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from waltz_env.algorithms.training.run_log import finite
from waltz_env.branches import repeats
from waltz_env.rewards import RewardWeights, score
from waltz_env.run_folder import RunFolder
from waltz_env.transcript import in_words
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Message, NoVerdict, Prompt, Response, Trajectory
from waltz_env.untrusted_text import encodable


@dataclass(frozen=True, slots=True)
class TracedTurn:
    """One turn of a game, as a tracker shows it.

    Attributes:
        name: ``draft``, then ``feedback_1``, ``revision_1``, ``feedback_2`` and so on.
        agent: who acted.
        text: the response, or the critique as the feedback agent wrote it.
        labels: the judge's labels of a response or the flags of a critique, in words.
        reward: R_c of a response or the weighted reward of a critique; None if a response of the game has no verdict.
    """

    name: str
    agent: AgentID
    text: str
    labels: str
    reward: float | None


@dataclass(frozen=True, slots=True)
class GameTrace:
    """One game, as a tracker shows it. Every text can be encoded as UTF-8.

    Attributes:
        prompt: the prompt.
        turns: draft, feedback, revision and so on, in order.
    """

    prompt: Prompt
    turns: tuple[TracedTurn, ...]

    @property
    def about(self) -> dict[str, str]:
        """The identifier, the kind and the category of the prompt."""
        return {"prompt_id": self.prompt.id, "kind": str(self.prompt.kind), "category": self.prompt.category}


@runtime_checkable
class Tracker(Protocol):
    """A place outside the run folder where people follow their runs."""

    def open(self, run: str, *, settings: Mapping[str, Any]) -> None:
        """Begin the run of that name, or continue it if there is one.

        Args:
            run: name of the run: ASCII letters, digits, ``.``, ``_`` and ``-``.
            settings: settings of the run as JSON values.

        Raises:
            UsageError: the tracker cannot be used.
        """
        ...

    def log(self, step: int, *, metrics: Mapping[str, float], games: Sequence[GameTrace]) -> None:
        """Show one step: its finite metrics and all of its games; without metrics if its update failed."""
        ...

    def close(self) -> None:
        """Wait until everything has arrived. Called once, at the end, also if ``open`` was not called or failed."""
        ...


class TrackerLog:
    """A ``Logger`` that shows a run in trackers.

    A continued run continues in the same runs of the trackers. It computes the steps after its checkpoint again, with
    the same result; those that the trackers have already are not sent a second time. After the process was killed,
    nobody knows what arrived: then these steps are sent again, so that none of them is missing.

    Args:
        folder: the run folder, which keeps the run's name in the trackers and the newest step that they surely have.
        trackers: the trackers.
    """

    def __init__(self, folder: RunFolder | Path, trackers: Sequence[Tracker]) -> None:
        self._folder = folder if isinstance(folder, RunFolder) else RunFolder(folder)
        self._trackers = trackers
        self._run = ""
        self._sent = 0
        self._step = 0
        self._opened = False
        self._games: list[GameTrace] = []

    def begin(self, step: int) -> None:
        """Open the trackers."""
        folder = self._folder
        known = folder.read_tracking() or {"run": _new_name(folder.path), "step": 0}
        self._run, self._sent = known["run"], known["step"]
        settings = folder.read_config() if folder.has_config() else {}
        for tracker in self._trackers:
            tracker.open(self._run, settings=settings)
        folder.write_tracking(known)
        self._opened = True

    def games(self, step: int, games: Sequence[Trajectory], *, weights: RewardWeights) -> None:
        """Keep the games until the metrics of their step come."""
        self._step, self._games = step, [trace(game, weights) for game in games if not repeats(game)]

    def metrics(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        """Send the step to all trackers, unless they have it."""
        self._send(step, finite(values))
        self._sent = max(self._sent, step)

    def close(self) -> None:
        """Send games whose update failed, close the trackers, and note what they have."""
        if self._games:
            self._send(self._step, {})
        for tracker in self._trackers:
            tracker.close()
        if self._opened:
            self._folder.write_tracking({"run": self._run, "step": self._sent})

    def _send(self, step: int, metrics: Mapping[str, float]) -> None:
        games, self._games = self._games, []
        if step > self._sent:
            for tracker in self._trackers:
                tracker.log(step, metrics=metrics, games=games)


def trace(game: Trajectory, weights: RewardWeights) -> GameTrace:
    """The game with labels and rewards beside each turn.

    Args:
        game: a finished game.
        weights: weights of the feedback agent's reward.
    """
    texts: dict[str, Any] = {
        name: encodable(getattr(game.prompt, name)) for name in ("text", "id", "category", "source", "topic")
    }
    history = tuple(Message(role=each["role"], content=encodable(each["content"])) for each in game.prompt.history)
    return GameTrace(replace(game.prompt, **texts, history=history), tuple(_turns(game, weights)))


def _turns(game: Trajectory, weights: RewardWeights) -> Iterator[TracedTurn]:
    rewards = score(game, weights) if game.judged else None
    for t, response in enumerate(game.responses):
        name, reward = f"revision_{t}" if t else "draft", rewards.conversation[t] if rewards else None
        yield TracedTurn(name, CONVERSATION, encodable(response.text), _labels(response), reward)
        if t < len(game.critiques):
            critique = game.critiques[t]
            flags = critique.feedback.labels
            says, reward = in_words(flags) if flags else "malformed", rewards.feedback[t] if rewards else None
            yield TracedTurn(f"feedback_{t + 1}", FEEDBACK, encodable(critique.completion.text), says, reward)


def _labels(response: Response) -> str:
    if response.labels is not None:
        return in_words(response.labels)
    judgement = response.judgement
    return encodable(f"no verdict: {judgement.reason}") if isinstance(judgement, NoVerdict) else "not judged"


def _new_name(folder: Path) -> str:
    """A name that no other run has: the folder's alone may have been used before, for a run that was removed."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name)[:64]
    return f"{readable}-{secrets.token_hex(3)}"
