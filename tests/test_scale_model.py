"""The model of what scale costs, against numbers worked out by hand for a machine and a model of round numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.scale_model import (
    GPUS,
    H100,
    LLAMA,
    LORA,
    NOTHING,
    STAGE_2,
    WILDGUARD,
    Hardware,
    Lengths,
    Model,
    Plan,
    Turn,
    Workload,
    communication,
    decoding,
    draw,
    fastest,
    halved,
    pair,
    published,
    requests_per_second,
    sampling,
    step,
    updating,
)

# 1,000 FLOP/s, 100 bytes/s from 4,000 bytes of memory, a second of overhead; 2 GPUs per machine, 50 bytes/s inside and
# 10 outside, a tenth of a second per message.
MACHINE = Hardware(1000, 100, 4000, 1, node=2, in_node=50, network=10, hop=0.1)
# 100 weights (200 bytes, 200 FLOPs per token beside attention), 10 bytes of cache per token.
MODEL = Model(100, layers=1, width=0, cache=10)
TURN = Turn(10, Lengths(4, 4))
LOAD = Workload(
    games=2,
    draft=TURN,
    critique=TURN,
    revision=TURN,
    ftr=0.5,
    rows=2,
    learners=2,
    judge=Turn(10, Lengths(1, 1)),
    passes=5,
    microbatch=14,
)


def test_the_longest_of_many_texts_grows_as_the_harmonic_numbers_until_the_limit() -> None:
    free = Lengths(10, 10_000)  # hardly ever cut
    assert [round(free.longest_of(texts), 6) for texts in (1, 2, 3)] == [10, 15, pytest.approx(18.333333)]
    cut = Lengths(10, 30)
    assert cut.scale * -math.expm1(-30 / cut.scale) == pytest.approx(10)
    assert 15 < cut.longest_of(3) < 18.34
    assert cut.longest_of(10_000) == pytest.approx(30)
    assert Lengths(4, 4).longest_of(5) == 4


def test_the_texts_that_are_alive_add_up_to_the_mean() -> None:
    assert Lengths(4, 4).alive() == [1, 1, 1, 1]
    assert sum(Lengths(200, 512).alive()) == pytest.approx(200, rel=0.005)  # in whole tokens, half a token more


def test_a_decode_step_reads_or_computes_whichever_takes_longer() -> None:
    # 200 bytes of weights take 2 s; 3 rows of 12 tokens are 360 bytes of cache, 3.6 s; 3 x 200 FLOPs take 0.6 s.
    assert decoding(MACHINE, MODEL, 3, 12) == {"weights": 2, "cache": 3.6, "arithmetic": 0, "overhead": 1}
    slow = replace(MACHINE, flops=100)  # 600 FLOPs take 6 s
    assert decoding(slow, MODEL, 3, 12) == {"weights": 0, "cache": 0, "arithmetic": 6, "overhead": 1}


def test_sampling_adds_prompts_and_a_decode_step_per_token() -> None:
    # 2 prompts of 10 tokens: 2 x 10 x 200 / 1000 = 4 s. Four steps at contexts of 10 to 13: 4 x 2 s of weights,
    # 2 x 10 x (10 + 11 + 12 + 13) / 100 = 9.2 s of cache, 4 s of overhead.
    seconds = sampling(MACHINE, MODEL, TURN, 2, 1, held=0)
    assert seconds == pytest.approx({"prompts": 4, "weights": 8, "cache": 9.2, "arithmetic": 0, "overhead": 4})


def test_texts_that_do_not_fit_the_memory_wait() -> None:
    # 90 % of 4,000 bytes less 3,320 leave 280 bytes for the cache of two texts of 14 tokens. Four texts are two waves.
    once, twice = (sampling(MACHINE, MODEL, TURN, texts, 1, held=3320) for texts in (2, 4))
    assert twice == pytest.approx({cause: 2 * seconds for cause, seconds in once.items()})


def test_more_engines_than_texts_do_not_help() -> None:
    one, many = (sampling(MACHINE, MODEL, TURN, 2, gpus, held=0) for gpus in (2, 64))
    assert one == many


def test_a_turn_lasts_as_long_as_its_longest_text() -> None:
    alone, crowd = (sampling(H100, LLAMA, Turn(0, Lengths(200, 512)), texts, texts, held=0) for texts in (1, 64))
    each = LLAMA.bytes / H100.bandwidth
    assert alone["weights"] == pytest.approx(200 * each, rel=0.005)
    assert crowd["weights"] == pytest.approx(Lengths(200, 512).longest_of(64) * each, rel=0.005)


def test_a_ring_sends_what_a_gpu_lacks_over_the_slower_link() -> None:
    assert communication(MACHINE, 1, 100) == 0
    assert communication(MACHINE, 2, 100) == pytest.approx(100 / 2 / 50 + 0.1)  # inside the machine
    assert communication(MACHINE, 4, 100, messages=2) == pytest.approx(100 * 3 / 4 / 20 + 2 * 3 * 0.1)  # two links out


def test_an_update_gathers_all_weights_or_sums_the_gradients_of_an_adapter() -> None:
    # One row of 14 tokens per GPU: 14 x 5 x 200 / 1000 = 14 s.
    arithmetic, network, traffic = updating(MACHINE, MODEL, TURN, LOAD, 2)
    assert arithmetic == pytest.approx(14)
    # Four gathers of 200 bytes and one scattering of 400, half of them over the link, in five messages.
    assert traffic == 600
    assert network == pytest.approx(600 / 50 + 5 * 0.1)
    arithmetic, network, traffic = updating(MACHINE, replace(MODEL, adapter=10), TURN, LOAD, 2)
    assert arithmetic == pytest.approx(14)
    assert traffic == 40  # bytes of gradients, there and back
    assert network == pytest.approx(2 * (20 / 50 + 0.1))
    assert updating(MACHINE, MODEL, TURN, LOAD, 1) == pytest.approx((28, 0, 0))


def test_one_gpu_holds_up_the_update_with_the_longest_rows() -> None:
    uneven = Turn(10, Lengths(4, 1000))
    arithmetic, _, _ = updating(MACHINE, MODEL, uneven, LOAD, 2)
    assert arithmetic == pytest.approx((10 + 6) * 5 * 200 / 1000, rel=1e-3)  # the longer of two texts has 6 tokens


def test_a_step_is_the_sum_of_its_parts_and_names_the_longest() -> None:
    adapters = replace(MODEL, adapter=1)
    made = step(replace(MACHINE, memory=1e11), adapters, MODEL, LOAD, Plan(1))
    # Two drafts and two critiques as above, 25.2 s each; one revision: 2 s, 8 s, 4.6 s and 4 s.
    assert made.parts["sampling"] == pytest.approx(25.2 + 25.2 + 18.6)
    # Two drafts judged: 4 s of prompts, 2 + 2 + 1 s; one revision: 2 s, 2 + 1 + 1 s.
    assert made.parts["judge"] == pytest.approx(9 + 6)
    assert made.parts["update"] == pytest.approx(2 * 28)
    assert made.parts["sync"] == pytest.approx(2 * 2 / 100)  # two adapters of 2 bytes into the engine
    assert made.seconds == pytest.approx(69 + 15 + 56 + 0.04)
    assert made.bottleneck == "sampling: weights"
    assert made.traffic == 0


def test_a_judge_with_gpus_of_its_own_judges_drafts_while_critiques_are_written() -> None:
    machine = replace(MACHINE, memory=1e11)
    shared, apart = (step(machine, replace(MODEL, adapter=1), MODEL, LOAD, plan) for plan in (Plan(1), Plan(2, 1)))
    assert apart.parts["sampling"] == shared.parts["sampling"]
    assert apart.parts["judge"] == pytest.approx(6)  # the revision alone
    assert apart.limits["judge"] == "its GPUs"


def test_sampling_ahead_takes_the_longer_of_the_two_sides() -> None:
    machine = replace(MACHINE, memory=1e11)
    made = step(machine, replace(MODEL, adapter=1), MODEL, LOAD, Plan(2, sampling_gpus=1))
    update = made.parts["update"] + made.parts["sync"]
    assert made.seconds == pytest.approx(made.parts["sampling"] + made.parts["judge"])
    assert made.seconds > update


def test_a_turn_without_tokens_is_not_played() -> None:
    load = replace(LOAD, draft=NOTHING, revision=NOTHING, judge=NOTHING, learners=1)
    made = step(replace(MACHINE, memory=1e11), replace(MODEL, adapter=1), MODEL, load, Plan(1))
    assert made.parts["sampling"] == pytest.approx(25.2)
    assert made.parts["judge"] == 0


def test_the_pair_serves_fewer_requests_by_the_tokens_that_it_adds() -> None:
    free = replace(MACHINE, flops=1e12)  # prompts cost nothing
    turns = pair(prompt=0, answer=4, critique=1, flagged=2, ftr=0.5)
    assert [(share, turn.new.mean) for turn, share in turns] == [(1, 4), (1, 1.5), (0.5, 4)]
    no_cache = replace(MODEL, cache=0)
    alone = requests_per_second(free, no_cache, turns[:1], 1)
    assert alone == pytest.approx(1 / (4 * 3))  # four steps of 2 s for the weights and 1 s of overhead
    assert requests_per_second(free, no_cache, turns, 1) == pytest.approx(1 / ((4 + 1.5 + 2) * 3))
    assert requests_per_second(free, no_cache, turns, 8) == pytest.approx(
        8 / ((4 + 1.5 + 2) * 3)
    )  # one step serves all


def test_two_processes_halve_what_grows_with_the_games_and_not_the_rest() -> None:
    assert halved((32, {"sampling": 2.0}), (128, {"sampling": 5.0})) == {"sampling": pytest.approx(1 + 4 / 2)}


def test_more_gpus_are_never_slower_and_eight_hold_two_whole_policies() -> None:
    for model, least in ((LORA, 1), (LLAMA, 8)):
        plans = {gpus: fastest(H100, model, STAGE_2, gpus) for gpus in GPUS}
        assert [gpus for gpus, plan in plans.items() if plan is None] == [gpus for gpus in GPUS if gpus < least]
        seconds = [step(H100, model, WILDGUARD, STAGE_2, plan).seconds for plan in plans.values() if plan]
        assert all(later <= 1.001 * earlier for earlier, later in pairwise(seconds))


def test_no_published_figure_is_missed_by_more_than_docs_say() -> None:
    assert {what: ours / there for what, there, ours in published() if not 0.6 < ours / there < 1.6} == {}


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    draw(tmp_path / "step.png", {"a": STAGE_2, "b": replace(STAGE_2, games=64, rows=64)}, H100)
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")
