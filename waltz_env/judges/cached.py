"""A cache on disk in front of a judge, so that it judges nothing twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from waltz_env.errors import UsageError
from waltz_env.extras import install_command
from waltz_env.judges.verdicts import paired
from waltz_env.judging import consult
from waltz_env.protocols import Judge
from waltz_env.records import SCHEMA, decode_judgement, encode_judgement
from waltz_env.types import Judgement, NoVerdict, Prompt


class CachedJudge:
    """Asks its judge only about responses that are not in the folder yet.

    The key of an entry is the judge's identity, this package's version, the prompt's text, history and kind, and the
    response. Responses without a verdict are not stored: the judge is asked again. The folder holds JSON in SQLite, and
    several processes may share it.

    Args:
        judge: the judge to ask.
        folder: folder of the cache.
        identity: the judge with its model and version, such as ``"wildguard:allenai/wildguard"``. It must change with
            everything that would change a judgement.

    Raises:
        UsageError: diskcache is not installed.
    """

    def __init__(self, judge: Judge, folder: str | Path, *, identity: str) -> None:
        try:
            from diskcache import Cache, JSONDisk
        except ModuleNotFoundError as error:
            raise UsageError(f"CachedJudge needs diskcache. Install it: {install_command('judges')}") from error
        self.name = identity
        self._judge = judge
        self._cache = Cache(str(folder), disk=JSONDisk, eviction_policy="none")

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement | NoVerdict]:
        """Judges each (prompt, response), in order: from the folder, or by the judge where the folder has no entry.

        Raises:
            UsageError: the numbers of prompts and responses differ, or the judge answered with the wrong number of
                judgements.
        """
        keys = [self._key(prompt, response) for prompt, response in paired(prompts, responses)]
        outcomes = {key: stored for key in keys if (stored := self._stored(key)) is not None}
        new = {key: i for i, key in enumerate(keys) if key not in outcomes}  # a case that occurs twice is asked once
        if new:
            answers = consult(self._judge, [prompts[i] for i in new.values()], [responses[i] for i in new.values()])
            for key, outcome in zip(new, answers, strict=True):
                outcomes[key] = outcome
                if isinstance(outcome, Judgement):
                    self._cache.set(key, encode_judgement(outcome))
        return [outcomes[key] for key in keys]

    def close(self) -> None:
        """Closes the files of the cache; the next call of ``judge`` opens them again."""
        self._cache.close()

    def _stored(self, key: str) -> Judgement | NoVerdict | None:
        value = self._cache.get(key)
        return None if value is None else decode_judgement(value)

    def _key(self, prompt: Prompt, response: str) -> str:
        from waltz_env import __version__

        what = [self.name, __version__, SCHEMA, prompt.text, prompt.history, prompt.kind.value, response]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
