"""How far is the memory that `waltz train --dry-run` estimates from what a run takes?

Each case is a process of its own. It reads the estimate off the models' shapes, loads the models, and makes the steps
of a run, with rows as long as the estimate takes them to be: an update on two short rows, after which the optimizer has
its moments; one batch of completions; and an update on as many rows as one forward pass takes. One agent learns.

Measured is the peak of each phase, less what the process had before it loaded the models: on a CPU its resident memory,
on a GPU what torch has allocated. So the interpreter, libraries and the CUDA context are left out, and what torch and
its kernels copy is included. On a CPU, freed memory that the C library keeps counts as in use, so an update that needs
less than the sampling before it may show as much.

    OMP_NUM_THREADS=1 python -m benchmarks.memory_estimate
    python -m benchmarks.memory_estimate --model Qwen/Qwen2.5-1.5B-Instruct --context 2048 --new-tokens 512 \
        --batch-size 32 --tokens-per-microbatch 4096                                                     # on a GPU
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator

from benchmarks.update_speed import random_model
from waltz_env.agents import TransformersAgent
from waltz_env.algorithms.protocols import Sample
from waltz_env.algorithms.registry import with_settings
from waltz_env.algorithms.training.learners import build_learners, update_learners
from waltz_env.errors import UnreadablePromptError
from waltz_env.experiments.memory import Need, needs
from waltz_env.game import Game
from waltz_env.presets import Recipe, preset, with_learners, with_method
from waltz_env.presets.chat import ChatOptions, build_agents, outlined_agents
from waltz_env.prompts import PromptSet
from waltz_env.run_folder import RunFolder
from waltz_env.types import CONVERSATION, FEEDBACK, Kind, Observation, Prompt

LARGE_VOCABULARY = "random Llama with 131,072 entries"
CASES: Mapping[str, Mapping[str, Any]] = {
    "adapters of rank 16": {},
    "adapters of rank 32": {"adapter_rank": 32},
    "rank 16, gradient checkpointing": {"gradient_checkpointing": True},
    "rank 16, base in bfloat16": {"dtype": "bfloat16"},
    "all weights": {"all_weights": True},
    "all weights, gradient checkpointing": {"all_weights": True, "gradient_checkpointing": True},
    LARGE_VOCABULARY: {},
}


@dataclass(frozen=True, slots=True)
class Phases:
    """Bytes that are in use at the same time."""

    sampling: float
    update: float


def main() -> None:
    """Print a row of the table per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="model of all cases but the one with a large vocabulary")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--tokens-per-microbatch", type=int, default=512)
    parser.add_argument("--cases", choices=list(CASES), nargs="+", default=list(CASES))
    parser.add_argument("--alone", action="store_true", help="measure one case in this process and print its numbers")
    arguments = parser.parse_args()
    if arguments.alone:
        (case,) = arguments.cases
        print(json.dumps([asdict(each) for each in in_this_process(case, arguments)]))
        return
    print(
        "| case | sampling, GB: estimated | measured | update, GB: estimated | measured | peak: estimated / measured |"
    )
    print("|---|---|---|---|---|---|")
    for case in arguments.cases:
        command = [sys.executable, "-m", "benchmarks.memory_estimate", *sys.argv[1:], "--alone", "--cases", case]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        estimated, measured = (Phases(**each) for each in json.loads(output))
        sizes = (estimated.sampling, measured.sampling, estimated.update, measured.update)
        cells = [f"{size / 1e9:.2f}" for size in sizes]
        ratio = max(estimated.sampling, estimated.update) / max(measured.sampling, measured.update)
        print(f"| {case} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)


def in_this_process(case: str, arguments: argparse.Namespace) -> tuple[Phases, Phases]:
    """The estimate of one case, and what is measured."""
    accelerator = Accelerator()
    with TemporaryDirectory() as folder:
        recipe = recipe_of(case, arguments, folder=Path(folder))
        parts = needs(outlined_agents(recipe, accelerator=accelerator), recipe)
        measured = measure(recipe, accelerator)
    return Phases(in_phase(parts, "sampling"), in_phase(parts, "update")), measured


def recipe_of(case: str, arguments: argparse.Namespace, *, folder: Path) -> Recipe:
    """The recipe of a case. Where all weights are trained, both roles have the same, to fit a small machine."""
    model = arguments.model
    if case == LARGE_VOCABULARY:
        model = str(folder)
        for part in random_model(131_072):
            part.save_pretrained(folder)
    given: dict[str, Any] = {
        "model": model,
        "dtype": "auto" if torch.cuda.is_available() else "float32",
        "context": arguments.context,
        "max_new_tokens": arguments.new_tokens,
        "batch_size": arguments.batch_size,
        "system_prompts": "short",
    }
    options = ChatOptions(**given | dict(CASES[case]))
    recipe = with_method(preset("chat").recipe, "feedback-only")
    recipe = with_learners(
        recipe,
        lambda stage, agent, each: with_settings(each, tokens_per_microbatch=arguments.tokens_per_microbatch),
    )
    if options.all_weights and options.dtype == "auto":
        options = replace(options, dtype="float32")
    return replace(recipe, options=options, shared_policy=options.all_weights)


def measure(recipe: Recipe, accelerator: Accelerator) -> Phases:
    """Load the models and make the steps of a run."""
    meter = Meter(accelerator.device)
    before = meter.now()
    agents = build_agents(recipe, RunFolder(Path("unused")), accelerator=accelerator, prompts=PromptSet([]))
    stage = recipe.stages[0]
    learners = build_learners(stage, agents, accelerator)
    reviewer, speaker = agents[FEEDBACK], agents[CONVERSATION]
    assert isinstance(reviewer, TransformersAgent)
    assert isinstance(speaker, TransformersAgent)
    assert isinstance(recipe.options, ChatOptions)
    context, new_tokens = recipe.options.context or 0, recipe.options.max_new_tokens
    rows = getattr(stage.learners[FEEDBACK], "surrogate").tokens_per_microbatch // context  # noqa: B009
    update_learners(learners, {FEEDBACK: samples(2, 8, 8)})
    meter.reset()
    longest = longest_words(speaker)
    speaker.act([conversation(number, longest) for number in range(recipe.options.batch_size)])
    sampling = meter.peak()
    meter.reset()
    update_learners(learners, {FEEDBACK: samples(rows, context - new_tokens, new_tokens)})
    return Phases(sampling - before, meter.peak() - before)


def samples(rows: int, prompt: int, completion: int) -> list[Sample]:
    """Rows of random tokens, every second one with a reward."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(256, (rows, prompt + completion), generator=generator).tolist()
    return [
        Sample(tuple(row[:prompt]), tuple(row[prompt:]), (-5.0,) * completion, float(number % 2), 0, 0)
        for number, row in enumerate(ids)
    ]


def conversation(number: int, words: int) -> Observation:
    """What the conversation agent reads: prompts of other numbers share no beginning with this one."""
    return Game(Prompt(f"{10 + number} " + "word " * words, Kind.BENIGN)).observe(CONVERSATION)


def longest_words(agent: TransformersAgent) -> int:
    """The largest number of words that the agent can read."""
    words = 1
    while True:
        try:
            agent.check_readable([conversation(0, words + 1)])
        except UnreadablePromptError:
            return words
        words += 1


def in_phase(parts: list[Need], phase: str) -> float:
    """The bytes that a phase needs, with what is always needed."""
    return sum(part.size for part in parts if part.phase in ("", phase))


class Meter:
    """Memory in use on a device, and its peak, in bytes.

    Args:
        device: a GPU, or the CPU, where it is the resident memory of this process.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return _resident("VmRSS")

    def peak(self) -> int:
        """The peak since ``reset``."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _resident("VmHWM")

    def reset(self) -> None:
        """Let the peak begin with what is in use now."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


if __name__ == "__main__":
    main()
