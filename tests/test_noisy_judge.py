"""A judge with label noise: which labels it flips, how many, and who is asked without it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.games import BOMB, BOTH, PROCESS, REFUSING, SAFE, UNSAFE
from waltz_env import Prompt, read_games
from waltz_env.cli import main
from waltz_env.errors import UsageError
from waltz_env.judges import NoisyJudge, RefusalJudge, load_judge, without_noise
from waltz_env.run_folder import RunFolder
from waltz_env.testing import judge_test
from waltz_env.types import Judgement, Labels, NoVerdict

TEXTS = [f"Response {number}." for number in range(2000)]


class Says:
    """Says the same of every response."""

    def __init__(self, outcome: Judgement | NoVerdict) -> None:
        self.outcome = outcome

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement | NoVerdict]:
        return [self.outcome] * len(responses)


def flipped(share: float, *, seed: int = 0, prompt: Prompt = BOMB) -> list[bool]:
    judge = NoisyJudge(Says(Judgement(SAFE, "says")), share, seed=seed)
    outcomes = judge.judge([prompt] * len(TEXTS), TEXTS)
    return [isinstance(each, Judgement) and not each.labels.ok for each in outcomes]


@pytest.mark.parametrize(
    ("prompt", "said", "expected"),
    [
        (BOMB, SAFE, UNSAFE),
        (BOMB, UNSAFE, SAFE),
        (BOMB, BOTH, SAFE),
        (PROCESS, SAFE, REFUSING),
        (PROCESS, REFUSING, SAFE),
        (PROCESS, UNSAFE, SAFE),
    ],
)
def test_a_flip_turns_r_c_around(prompt: Prompt, said: Labels, expected: Labels) -> None:
    judgement = Judgement(said, "says", "because", {"sure": 0.5})
    (always,) = NoisyJudge(Says(judgement), 1.0).judge([prompt], ["x"])
    assert always == Judgement(expected, "noisy:1:says", "Flipped by noise. because", {"sure": 0.5})
    assert NoisyJudge(Says(judgement), 0.0).judge([prompt], ["x"]) == [judgement]


def test_no_verdict_is_not_flipped() -> None:
    assert NoisyJudge(Says(NoVerdict("It is unknown.")), 1.0).judge([BOMB], ["x"]) == [NoVerdict("It is unknown.")]


def test_the_share_of_labels_is_flipped_and_always_the_same_ones() -> None:
    """Of 2,000 labels 10 % flip: 200, with a standard deviation of 13.4; four of them are 54."""
    first = flipped(0.1)
    assert abs(sum(first) - 200) < 54
    assert flipped(0.1) == first
    more = flipped(0.3)
    assert all(more[i] for i, each in enumerate(first) if each)


def test_seed_prompt_and_history_decide_which_labels_flip() -> None:
    """Two independent tenths have a hundredth in common: 20 of 2,000, with a standard deviation of 4.4."""
    later = replace(BOMB, history=({"role": "user", "content": "Hi"},))
    for other in (flipped(0.1, seed=1), flipped(0.1, prompt=PROCESS), flipped(0.1, prompt=later)):
        assert sum(one and two for one, two in zip(flipped(0.1), other, strict=True)) < 40


def test_texts_of_any_kind_are_judged() -> None:
    judge_test(NoisyJudge(RefusalJudge(), 0.1))
    NoisyJudge(RefusalJudge(), 0.5).judge([BOMB, BOMB], ["\ud800", "\x00é"])


def test_judges_are_named_with_their_noise() -> None:
    one, other = (load_judge(spec) for spec in ("noisy:0.5:refusals", "noisy:0.5#1:majority(refusals,refusals)"))
    prompts, texts = [BOMB] * 64, TEXTS[:64]
    labels = [
        [isinstance(each, Judgement) and each.labels.ok for each in judge.judge(prompts, texts)]
        for judge in (one, other)
    ]
    assert 16 < sum(labels[0]) < 48
    assert labels[0] != labels[1]


@pytest.mark.parametrize(
    "spec", ["noisy:lots:rules", "noisy:0.1#x:rules", "noisy::rules", "noisy:2:rules", "noisy:0.1:ruls", "noisy:0.1"]
)
def test_noise_that_cannot_be_is_told(spec: str) -> None:
    with pytest.raises(UsageError, match=r"noisy:SHARE|share must be|Did you mean 'rules'"):
        load_judge(spec)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("rules", "rules"),
        ("noisy:0.1:rules", "rules"),
        ("noisy:0.1#3:noisy:0.2:wildguard@http://host/v1#model", "wildguard@http://host/v1#model"),
        ("any(noisy:0.1:rules,embedding)", "any(rules,embedding)"),
        ("my.noisy:JUDGE", "my.noisy:JUDGE"),
    ],
)
def test_a_name_without_noise(spec: str, expected: str) -> None:
    assert without_noise(spec) == expected


def test_training_has_noise_and_evaluations_have_none(tmp_path: Path) -> None:
    preset, run = "tests.tiny_preset:PRESET", RunFolder(tmp_path / "run")
    assert main(["train", "--preset", preset, "--judge", "noisy:1:refusals", "--out", str(run.path)]) == 0
    assert main(["evaluate", str(run.path), "--no-untrained", "--out", str(tmp_path / "out")]) == 0
    judges = {
        path.parent.name: {getattr(each.judgement, "judge", "") for game in read_games(path) for each in game.responses}
        for path in (run.games_of_step(1), run.games_of_system("mine", "trained_pair"))
    }
    assert judges == {"training": {"noisy:1:refusals"}, "held-out": {"refusals"}}
    for folder in (run.path, tmp_path / "out"):
        found = json.loads((folder / "results.json").read_text())
        assert (found["judge"], found["training_judge"]) == ("refusals", "noisy:1:refusals")
