"""Verdicts kept on disk: what was judged once is not asked again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from waltz_env.errors import UsageError
from waltz_env.judges.verdicts import NoVerdict, all_or_raise, paired
from waltz_env.protocols import Judge
from waltz_env.rollout import try_judge
from waltz_env.types import Judgement, Labels, Prompt


class CachedJudge:
    """Asks its judge only about what is not in the folder yet.

    A verdict is found again by the judge's identity, this package's version, the prompt's text, history and kind, and
    the response. Failures are not kept: they are asked again. The folder holds JSON in SQLite and may be shared by
    several processes.

    Args:
        judge: what is asked.
        folder: where verdicts are kept.
        identity: the judge with its model and version, such as ``"wildguard:allenai/wildguard"``: whatever would
            change a verdict must change it.

    Raises:
        UsageError: diskcache is not installed.
    """

    def __init__(self, judge: Judge, folder: str | Path, *, identity: str) -> None:
        try:
            from diskcache import Cache, JSONDisk
        except ModuleNotFoundError as error:
            raise UsageError("Keeping verdicts needs diskcache. Install it: pip install 'waltz-env[judges]'") from error
        self.name = identity
        self._judge = judge
        self._cache = Cache(str(folder), disk=JSONDisk, eviction_policy="none")

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
        """One judgement for each (prompt, response), in order.

        Raises:
            JudgeError: some have no verdict; it carries those that have.
            UsageError: there are more prompts than responses, or fewer, or the judge gave the wrong number of verdicts.
        """
        keys = [self._key(prompt, response) for prompt, response in paired(prompts, responses)]
        outcomes: dict[str, Judgement | NoVerdict] = {
            key: _read(value) for key in keys if (value := self._cache.get(key)) is not None
        }
        new = {key: i for i, key in enumerate(keys) if key not in outcomes}  # each once, however often it occurs
        if new:
            verdicts = try_judge(self._judge, [prompts[i] for i in new.values()], [responses[i] for i in new.values()])
            for key, verdict in zip(new, verdicts, strict=True):
                outcomes[key] = verdict or NoVerdict("it gave none; the log says why.")
                if verdict is not None:
                    self._cache.set(key, _write(verdict))
        return all_or_raise(self.name, [outcomes[key] for key in keys])

    def close(self) -> None:
        """Closes the cache's files; they are opened again when needed."""
        self._cache.close()

    def _key(self, prompt: Prompt, response: str) -> str:
        from waltz_env import __version__

        what = [self.name, __version__, prompt.text, prompt.history, prompt.kind.value, response]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _write(verdict: Judgement) -> list[Any]:
    labels = verdict.labels
    return [labels.unsafe, labels.overrefuse, verdict.judge, verdict.rationale, dict(verdict.scores)]


def _read(value: list[Any]) -> Judgement:
    unsafe, overrefuse, judge, rationale, scores = value
    return Judgement(Labels(unsafe, overrefuse), judge, rationale, scores)
