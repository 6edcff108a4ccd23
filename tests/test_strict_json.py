from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.games import BOMB
from waltz_env.algorithms.training.run_log import RunLog
from waltz_env.records import read_games, write_games
from waltz_env.run_folder import RunFolder
from waltz_env.strict_json import dump_json
from waltz_env.types import Completion, Judgement, Labels, Response, Trajectory

NOT_FINITE = [math.nan, math.inf, -math.inf]


def strictly(text: str) -> Any:
    """What a reader that keeps to the standard reads."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON.")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("number", [*NOT_FINITE, np.float64("nan")])
@pytest.mark.parametrize(
    ("wrap", "expected"),
    [
        (lambda x: x, None),
        (lambda x: [1, x, "NaN"], [1, None, "NaN"]),
        (lambda x: {"a": (x, {"b": x}), "c": 0.5}, {"a": [None, {"b": None}], "c": 0.5}),
    ],
)
def test_numbers_that_are_not_finite_are_null_wherever_they_are(number: float, wrap: Any, expected: Any) -> None:
    assert strictly(dump_json(wrap(number))) == expected


def test_everything_else_is_as_json_writes_it() -> None:
    value = {"text": "\u00e9", "number": 1e300, "list": [True, None, 3], "nested": {"": -0.0}}
    assert dump_json(value, ensure_ascii=False, indent=1) == json.dumps(value, ensure_ascii=False, indent=1)


def with_scores(number: float) -> Trajectory:
    scores = {"probability": number, "other": 0.5}
    judgement = Judgement(Labels(unsafe=True, overrefuse=False), "mine", scores=scores)
    completion = Completion("text", prompt_ids=(1,), token_ids=(2, 3), logprobs=(number, -0.5))
    return Trajectory(BOMB, (Response(completion, judgement),), ())


@pytest.mark.parametrize("number", NOT_FINITE)
def test_a_games_file_with_scores_that_are_not_finite_is_json_and_reads_back(number: float, tmp_path: Path) -> None:
    write_games(tmp_path / "games.jsonl", [with_scores(number)])
    line = strictly((tmp_path / "games.jsonl").read_text())
    assert line["responses"][0]["scores"] == {"probability": None, "other": 0.5}
    assert line["responses"][0]["logprobs"] == [None, -0.5]
    (game,) = read_games(tmp_path / "games.jsonl")
    (response,) = game.responses
    assert isinstance(response.judgement, Judgement)
    assert math.isnan(response.judgement.scores["probability"])
    assert response.judgement.scores["other"] == 0.5
    assert replace(response.judgement, scores={}) == Judgement(Labels(unsafe=True, overrefuse=False), "mine")


@pytest.mark.parametrize("number", NOT_FINITE)
def test_the_other_files_of_a_run_are_json_too(number: float, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_results({"sets": {}, "latency": {"adaptive": {"p50": number}}})
    log = RunLog(folder)
    log.begin(0)
    log.metrics(1, "stage-1", {"kl": number, "reward": 0.5})
    log.close()
    assert strictly(folder.results.read_text())["latency"] == {"adaptive": {"p50": None}}
    assert strictly(folder.metrics.read_text()) == {"step": 1, "stage": "stage-1", "reward": 0.5}
