"""The table of ``benchmarks/performance.py`` for seconds worked out by hand, and its bare loop, which is our update."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from benchmarks.performance import HEAD, Pair, Row, compared, line, paired, ratio, write
from benchmarks.turns import Seconds, in_turn
from benchmarks.update_speed import Job, bare, learner, rows, token_ids
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents import LanguageModelPolicy, lora_policies
from waltz_env.types import CONVERSATION

PRECISIONS: tuple[Literal["no", "bf16"], ...] = ("no", "bf16")

# Ours is at 1/2, 2 and 6 times the peer's speed by the clock on the wall; by processor time, at 1, 1 and 4.
PAIRS = [
    Pair((12, 12), Seconds(2, 6), Seconds(1, 6)),
    Pair((12, 12), Seconds(2, 6), Seconds(4, 6)),
    Pair((12, 4), Seconds(2, 6), Seconds(4, 8)),
]


def test_a_ratio_is_the_median_of_pairs_with_a_t_interval_of_the_logarithms() -> None:
    found = ratio(PAIRS[:2], "wall")  # 1/2 and 2, whose logarithms are -log 2 and log 2
    half = 12.7062 * math.log(2)  # t(0.975, 1) times the standard error, log 2 * sqrt(2) / sqrt(2)
    assert found.median == 1.25
    assert math.log(found.low) == pytest.approx(-half, rel=1e-4)
    assert math.log(found.high) == pytest.approx(half, rel=1e-4)
    assert ratio(PAIRS, "wall").median == 2  # 1/2, 2 and 6
    assert ratio(PAIRS[:2], "processor") == (1, 1, 1)


def test_lines_give_speeds_per_second_of_processor_and_what_to_install() -> None:
    steady = [Pair((6_000, 9_000), Seconds(1, 2), Seconds(2, 6))] * 2
    assert (
        line(Row("env", "peer", "steps", steady, peaks=(0.5, 2)))
        == "| env | peer | 1.33 (1.33-1.33) | 2.00 (2.00-2.00) | 3,000 steps/s | 1,500 | 0.50 : 2.00 |"
    )
    missing = line(Row("env", "peer", "steps", missing="`pip install peer`"))
    assert missing == "| env | peer | not installed: `pip install peer` | | | | |"
    assert missing.count("|") == HEAD.count("|") + 2


def test_ways_take_turns_backwards_in_every_second_round() -> None:
    order: list[str] = []

    def way(name: str) -> Seconds:
        order.append(name)
        return Seconds(len(order), 0)

    measured = in_turn({"a": lambda: way("a"), "b": lambda: way("b")}, rounds=2)
    assert "".join(order) == "abbaab"
    assert [[each.wall for each in taken] for taken in measured.values()] == [[4, 5], [3, 6]]  # without the first round
    assert paired(measured, units=(1, 2))[0] == Pair((1, 2), Seconds(4, 0), Seconds(3, 0))


def test_the_table_is_kept_with_all_seconds(tmp_path: Path) -> None:
    write(tmp_path, [Row("env", "peer", "steps", PAIRS)], layers=3)
    kept = json.loads((tmp_path / "table.json").read_text("utf-8"))
    assert kept["layers"] == 3
    assert kept["rows"][0]["pairs"][2] == [[12, 4], [2, 6], [4, 8]]
    assert len((tmp_path / "table.md").read_text("utf-8").splitlines()) == 3


@pytest.mark.parametrize("unequal", [False, True])
def test_the_bare_loop_makes_the_learners_update(unequal: bool) -> None:
    job = Job(rows=6, microbatch=4, precision="no", unequal=unequal)

    def updated(make: str) -> list[torch.Tensor]:
        policy = policy_of()
        samples = [
            replace(
                row,
                prompt_ids=tuple(each % 256 for each in row.prompt_ids),
                token_ids=tuple(each % 256 for each in row.token_ids),
            )
            for row in rows(policy, job.rows, unequal=unequal)
        ]
        {"bare": bare, "learner": learner}[make](policy, samples, job)()
        return [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]

    ours, theirs = updated("learner"), updated("bare")
    assert max(gradient.abs().max() for gradient in ours) > 0
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3)


def test_updates_of_both_precisions_are_timed_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for precision in PRECISIONS:
        taken = compared(["learner"], Job(rows=2, microbatch=2, precision=precision, vocabulary=49_152))
        assert len(taken["learner"]) == 5


def policy_of() -> LanguageModelPolicy:
    """Adapters that have changed, so that the policy is not its reference."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = lora_policies(tiny_model(), tiny_tokenizer())[CONVERSATION]
        for parameter in policy.parameters():
            parameter.data += 0.01
    return policy


def test_rows_of_unequal_length_have_known_ends() -> None:
    lengths = [(len(prompt), len(said)) for prompt, said in token_ids(2_000, unequal=True)]
    prompts, completions = zip(*lengths, strict=True)
    assert (min(prompts), max(prompts)) == (26, 104)
    assert (min(completions), max(completions)) == (4, 64)
    assert {(len(prompt), len(said)) for prompt, said in token_ids(3)} == {(104, 64)}
