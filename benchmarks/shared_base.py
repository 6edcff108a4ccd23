"""One shared base with two adapters against two full models with two references: memory and time of an update.

SmolLM2-135M-Instruct in both roles, float32, REINFORCE++, 8 rows of 104 + 64 tokens per role. For time, the layouts
take turns in one process; for memory, each gets its own process.

    OMP_NUM_THREADS=2 python -m benchmarks.shared_base
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from accelerate import Accelerator

from benchmarks.turns import gibibytes, in_turn, seconds
from benchmarks.update_speed import COMPLETION, PROMPT, rows
from waltz_env.agents import LanguageModelPolicy, full_policy, load_smollm2, lora_policies
from waltz_env.algorithms import algorithm
from waltz_env.types import AGENTS, AgentID


def shared() -> dict[AgentID, LanguageModelPolicy]:
    """Both roles on one frozen base, which is also their reference."""
    return lora_policies(*load_smollm2())


def separate() -> dict[AgentID, LanguageModelPolicy]:
    """One model per role, each with a frozen copy as its reference."""
    return {name: full_policy(*load_smollm2()) for name in AGENTS}


LAYOUTS: dict[str, Callable[[], dict[AgentID, LanguageModelPolicy]]] = {"shared": shared, "separate": separate}


def updates(layout: str, count: int) -> Callable[[], None]:
    """A function that makes one update of each role on ``count`` rows."""
    config = algorithm("reinforce++", tokens_per_microbatch=count * (PROMPT + COMPLETION))
    accelerator = Accelerator(cpu=True)
    policies = LAYOUTS[layout]()
    learners = {name: config.build(policy, accelerator) for name, policy in policies.items()}

    def update() -> None:
        for name, learner in learners.items():
            learner.update([replace(row, agent=name) for row in rows(policies[name], count)])

    return update


def memory(layout: str, count: int) -> tuple[float, float]:
    """Resident memory of this process with all weights loaded, and its peak over two updates."""
    update = updates(layout, count)
    loaded = gibibytes("VmRSS")
    update()
    update()  # AdamW's moments exist from the second update on
    return loaded, gibibytes("VmHWM")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=8, help="rows per update and role")
    parser.add_argument("--peak", choices=LAYOUTS, help="print the memory of one layout")
    arguments = parser.parse_args()
    if arguments.peak:
        print(*(f"{size:.2f}" for size in memory(arguments.peak, arguments.rows)))
        return
    calls = {layout: partial(seconds, updates(layout, arguments.rows)) for layout in LAYOUTS}
    print("| layout | s for both roles | s of processor | GiB loaded | peak GiB |")
    print("|---|---|---|---|---|")
    for layout, measured in in_turn(calls, rounds=arguments.rounds).items():
        wall, cpu = (statistics.median(each[i] for each in measured) for i in (0, 1))
        command = [sys.executable, "-m", "benchmarks.shared_base", "--peak", layout, "--rows", str(arguments.rows)]
        loaded, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
        print(f"| {layout} | {wall:.1f} | {cpu:.1f} | {loaded} | {peak} |", flush=True)


if __name__ == "__main__":
    main()
