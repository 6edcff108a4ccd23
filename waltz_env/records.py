r"""Games as JSONL: one line per game, read back as the same ``Trajectory``.

    {"schema": 1,
     "prompt": {"text", "kind", "id", "category", "source", "topic", "history", "intent"},
     "responses": [{"text", "finish", "version", "labels": LABELS, "judge", "rationale", "scores"}
                   | {"text", "finish", "version", "labels": null, "no_verdict"}],
     "critiques": [{"text", "finish", "version", "labels": LABELS | null, "advice", "reasoning"}],
     "branch": [int, int, int]}

``LABELS`` is ``{"unsafe": bool, "overrefuse": bool}``. A response has the judge's labels, followed by ``judge``,
``rationale`` and ``scores``. If its labels are null, it was not judged, or the judge had no verdict: then
``no_verdict`` is the reason. Files written before version 0.2 have neither ``no_verdict`` nor ``intent``. A critique
has the labels that it claims (null: malformed). Responses and critiques also have ``prompt_ids``, ``token_ids`` and
``logprobs`` if the agent gave them and they are wanted; otherwise ``usage``,
``{"prompt_tokens": int, "completion_tokens": int}``, if it is known.
``branch`` is there in games that share turns with others of the same file (``waltz_env.branches``).
Numbers that are not finite, such as a score of NaN, are null and read back as NaN. Every string survives, even lone
surrogates; a file is UTF-8 with one ``\n`` per line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import count, takewhile
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from waltz_env.errors import DataError
from waltz_env.files import atomic_path
from waltz_env.plain import plain_completion, plain_judgement
from waltz_env.run_folder import RunFolder
from waltz_env.strict_json import dump_json
from waltz_env.types import (
    Completion,
    Critique,
    Feedback,
    Finish,
    Judgement,
    Kind,
    Labels,
    Message,
    NoVerdict,
    Prompt,
    Response,
    Trajectory,
    Usage,
)

SCHEMA = 1
TOKENS = ("prompt_ids", "token_ids", "logprobs")
T = TypeVar("T")

# Characters that other tools take for the end of a line, and lone surrogates, which UTF-8 cannot encode. The second
# half of a high-low pair is not escaped: two escapes in a row would be read back as the one character that they encode
# in UTF-16.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udbff]|(?<![\ud800-\udbff])[\udc00-\udfff]")


def write_games(path: str | Path, trajectories: Iterable[Trajectory], *, tokens: bool = True) -> None:
    """Writes games to a file. After a crash ``path`` is either unchanged or holds all of them.

    Args:
        path: file to write; missing parent folders are created.
        trajectories: the games.
        tokens: whether to write token ids and log-probabilities, if there are any.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file,
    ):
        for trajectory in trajectories:
            file.write(encode_game(trajectory, tokens=tokens) + "\n")


def read_games(path: str | Path) -> list[Trajectory]:
    """Reads all games of a file.

    Raises:
        DataError: the file cannot be read, or a line is not a game; the message names the line and the reason.
    """
    games = []
    try:
        with Path(path).open(encoding="utf-8", errors="surrogatepass", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                try:
                    games.append(decode_game(line))
                except DataError as error:
                    raise DataError(f"{path}, line {number}: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    return games


def training_games(run: RunFolder) -> Iterator[list[Trajectory]]:
    """The training games of a run, step after step. Held-out games are for measuring alone."""
    for step in takewhile(lambda step: run.games_of_step(step).exists(), count(1)):
        yield read_games(run.games_of_step(step))


def encode_game(trajectory: Trajectory, *, tokens: bool = True) -> str:
    """One game as one line of JSON, without the line end.

    Raises:
        UsageTypeError: something in it could not be read back: a field has the wrong type (``waltz_env.plain``).
    """
    prompt = trajectory.prompt
    value = {
        "schema": SCHEMA,
        "prompt": {
            "text": prompt.text,
            "kind": prompt.kind.value,
            "id": prompt.id,
            "category": prompt.category,
            "source": prompt.source,
            "topic": prompt.topic,
            "history": prompt.history,
            "intent": prompt.intent,
        },
        "responses": [
            {**_completion(response.completion, tokens), **encode_judgement(response.judgement)}
            for response in trajectory.responses
        ],
        "critiques": [
            {
                **_completion(critique.completion, tokens),
                "labels": _labels(critique.feedback.labels),
                "advice": critique.feedback.advice,
                "reasoning": critique.feedback.reasoning,
            }
            for critique in trajectory.critiques
        ],
    }
    if trajectory.branch:
        value["branch"] = trajectory.branch
    line = dump_json(value, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


def decode_game(line: str) -> Trajectory:
    """The inverse of ``encode_game``.

    Raises:
        DataError: the line is not a game, or its schema is not one that this version reads.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the line is not JSON ({error}).") from None
    if not isinstance(value, dict):
        raise DataError(f"expected a JSON object; got {_short(value)}.")
    if value.get("schema") != SCHEMA:
        raise DataError(
            f"expected a game of schema {SCHEMA}; got schema {_short(value.get('schema'))}. Read it with the version "
            "of waltz_env that wrote it."
        )
    return Trajectory(
        _read_prompt(_get(value, "prompt", dict)),
        tuple(_read_response(_object(item, "a response")) for item in _get(value, "responses", list)),
        tuple(_read_critique(_object(item, "a critique")) for item in _get(value, "critiques", list)),
        tuple(_int(number, "branch") for number in _get(value, "branch", list)) if "branch" in value else (),
    )


def encode_judgement(judgement: Judgement | NoVerdict | None) -> dict[str, Any]:
    """The fields of a response that hold what the judge said of it.

    Raises:
        UsageTypeError: a field has the wrong type.
    """
    if judgement is None:
        return {"labels": None}
    judgement = plain_judgement(judgement)
    if isinstance(judgement, NoVerdict):
        return {"labels": None, "no_verdict": judgement.reason}
    return {
        "labels": _labels(judgement.labels),
        "judge": judgement.judge,
        "rationale": judgement.rationale,
        "scores": dict(judgement.scores),
    }


def decode_judgement(value: Mapping[str, Any]) -> Judgement | NoVerdict | None:
    """The inverse of ``encode_judgement``; other fields of ``value`` are ignored.

    Raises:
        DataError: a field is missing or of the wrong type.
    """
    labels = _read_labels(value)
    if labels is not None:
        scores = _get(value, "scores", dict)
        return Judgement(
            labels,
            _get(value, "judge", str),
            _get(value, "rationale", str),
            {name: _float(score, name) for name, score in scores.items()},
        )
    return NoVerdict(_get(value, "no_verdict", str)) if "no_verdict" in value else None


def _completion(completion: Completion, tokens: bool) -> dict[str, Any]:
    completion = plain_completion(completion)
    value: dict[str, Any] = {"text": completion.text, "finish": completion.finish, "version": completion.version}
    for name in TOKENS if tokens else ():
        if getattr(completion, name) is not None:
            value[name] = getattr(completion, name)
    if completion.tokens is not None and "token_ids" not in value:
        value["usage"] = asdict(completion.tokens)
    return value


def _labels(labels: Labels | None) -> dict[str, bool] | None:
    return None if labels is None else {"unsafe": labels.unsafe, "overrefuse": labels.overrefuse}


def _read_prompt(value: Mapping[str, Any]) -> Prompt:
    kind = _get(value, "kind", str)
    if kind not in [k.value for k in Kind]:
        raise DataError(f"'kind' must be {' or '.join(repr(k.value) for k in Kind)}; got {kind!r}.")
    text, id, category, source, topic = (_get(value, k, str) for k in ("text", "id", "category", "source", "topic"))
    messages = [_object(item, "a message of the history") for item in _get(value, "history", list)]
    history = tuple(Message(role=_get(m, "role", str), content=_get(m, "content", str)) for m in messages)
    intent = _get(value, "intent", str) if "intent" in value else ""
    return Prompt(text, Kind(kind), id, category, source, topic, history, intent)


def _read_completion(value: Mapping[str, Any]) -> Completion:
    finish = _get(value, "finish", str)
    if finish not in get_args(Finish):
        raise DataError(f"'finish' must be one of {', '.join(map(repr, get_args(Finish)))}; got {finish!r}.")
    prompt_ids, token_ids, logprobs = (None if name not in value else _get(value, name, list) for name in TOKENS)
    return Completion(
        _get(value, "text", str),
        cast(Finish, finish),
        prompt_ids=None if prompt_ids is None else tuple(_int(i, "prompt_ids") for i in prompt_ids),
        token_ids=None if token_ids is None else tuple(_int(i, "token_ids") for i in token_ids),
        logprobs=None if logprobs is None else tuple(_float(p, "logprobs") for p in logprobs),
        version=_get(value, "version", int),
        usage=_read_usage(_get(value, "usage", dict)) if "usage" in value else None,
    )


def _read_usage(value: Mapping[str, Any]) -> Usage:
    return Usage(_get(value, "prompt_tokens", int), _get(value, "completion_tokens", int))


def _read_response(value: Mapping[str, Any]) -> Response:
    return Response(_read_completion(value), decode_judgement(value))


def _read_critique(value: Mapping[str, Any]) -> Critique:
    feedback = Feedback(_read_labels(value), _get(value, "advice", str), _get(value, "reasoning", str))
    return Critique(_read_completion(value), feedback)


def _read_labels(value: Mapping[str, Any]) -> Labels | None:
    if value.get("labels", ...) is None:
        return None
    labels = _get(value, "labels", dict)
    return Labels(unsafe=_get(labels, "unsafe", bool), overrefuse=_get(labels, "overrefuse", bool))


def _int(value: Any, where: str) -> int:
    if type(value) is not int:
        raise DataError(f"{where!r} must hold integers; got {_short(value)}.")
    return value


def _float(value: Any, where: str) -> float:
    if value is None:
        return math.nan
    if type(value) not in (int, float):
        raise DataError(f"{where!r} must hold numbers; got {_short(value)}.")
    return float(value)


def _get(value: Mapping[str, Any], name: str, kind: type[T]) -> T:
    if name not in value:
        raise DataError(f"{name!r} is missing.")
    item = value[name]
    if type(item) is not kind:
        raise DataError(f"{name!r} must be of type {kind.__name__}; got {_short(item)}.")
    return item


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{what} must be a JSON object; got {_short(value)}.")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
