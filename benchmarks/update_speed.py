"""How fast is one update of REINFORCE++, compared with a bare PyTorch loop and with TRL on the same tokens?

SmolLM2-135M-Instruct, LoRA r=16 on all linear layers, 32 rows of 104 + 64 tokens, bfloat16 autocast (`--float32` for
processors that only emulate it, several times slower). All sides do the same work: the reference's log-probabilities
(adapters off), then forward, backward and one AdamW step. The bare loop computes logits on completion tokens only and
has no bookkeeping or metrics. TRL's trainers run their own loop, with sampling replaced by the fixed tokens; `patched`
makes TRL score only completion tokens, as it does by itself where Triton is available.

`--vocabulary N` takes a random Llama of 4 layers and 256 dimensions with N entries instead: nearly all memory and work
is then in the output head. `learner-whole` holds all logits at once, `learner-blocks` uses gradient checkpointing.
`supervised` is one step of the warm start on the same rows, `supervised-whole` the same with all logits at once.

The sides take turns, so a busy machine slows all of them. Ratios are medians over rounds, in wall-clock and in
processor time. Each side's peak memory is measured in a separate process.

    OMP_NUM_THREADS=2 python -m benchmarks.update_speed --rounds 3
    OMP_NUM_THREADS=2 python -m benchmarks.update_speed --float32 --vocabulary 131072 --microbatch 32 \
        --sides learner learner-whole learner-blocks bare
    pip install 'trl==1.16.*' && OMP_NUM_THREADS=2 python -m benchmarks.update_speed --sides learner grpo grpo-patched
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from tests.tiny import tiny_tokenizer
from waltz_env.agents import LanguageModelPolicy, load_smollm2, lora_policies
from waltz_env.algorithms import algorithm, with_settings
from waltz_env.algorithms.protocols import Sample
from waltz_env.algorithms.supervised import SupervisedConfig, fit

PROMPT, COMPLETION = 104, 64
TRL = ("grpo", "grpo-patched", "rloo", "rloo-patched")
LEARNERS = ("learner", "learner-whole", "learner-blocks")
SUPERVISED = ("supervised", "supervised-whole")
SIDES = (*LEARNERS, "bare", *SUPERVISED, *TRL)


@dataclass(frozen=True, slots=True)
class Job:
    """What every side does: rows per update, rows per forward pass, accelerate's mixed precision, and on what.

    Attributes:
        vocabulary: entries of a random model; None takes SmolLM2.
    """

    rows: int
    microbatch: int
    precision: Literal["no", "bf16"]
    vocabulary: int | None = None


def main() -> None:
    """Times the sides and prints their speeds, peaks and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--float32", action="store_true", help="no autocast")
    parser.add_argument("--microbatch", type=int, default=8, help="rows per forward pass, on all sides")
    parser.add_argument("--vocabulary", type=int, help="entries of a small random model, which replaces SmolLM2")
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=["learner", "bare"])
    parser.add_argument("--peak", action="store_true", help="run one side once and print its memory before and peak")
    arguments = parser.parse_args()
    precision: Literal["no", "bf16"] = "no" if arguments.float32 else "bf16"
    job = Job(arguments.rows, min(arguments.microbatch, arguments.rows), precision, arguments.vocabulary)
    sides = {name: side(name, job) for name in arguments.sides}
    if arguments.peak:
        before = gibibytes("VmRSS")
        sides[arguments.sides[0]]()
        print(f"{before:.2f} {gibibytes('VmHWM'):.2f}")
        return
    clocks = (time.perf_counter, time.process_time)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(arguments.rounds + 1):
        for name, update in sides.items():
            start = [clock() for clock in clocks]
            update()
            wall, cpu = (clock() - began for clock, began in zip(clocks, start, strict=True))
            if number:  # the first round warms up
                seconds[name].append((wall, cpu))
            print(f"round {number} {name:12} {wall:6.1f} s, {cpu:6.1f} s of processor", file=sys.stderr, flush=True)
    first = arguments.sides[0]
    print("| side | tokens/s | ratio | ratio by processor time | GiB before | peak GiB |")
    print("|---|---|---|---|---|---|")
    for name, measured in seconds.items():
        command = [sys.executable, "-m", "benchmarks.update_speed", "--peak", "--sides", name]
        command += ["--rows", str(job.rows), "--microbatch", str(job.microbatch)]
        command += ["--float32"] * arguments.float32
        command += ["--vocabulary", str(job.vocabulary)] * (job.vocabulary is not None)
        before_gib, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
        wall = statistics.median(each[0] for each in measured)
        by_wall, by_cpu = (
            statistics.median(ours[i] / theirs[i] for ours, theirs in zip(seconds[first], measured, strict=True))
            for i in (0, 1)
        )
        speed = job.rows * (PROMPT + COMPLETION) / wall
        print(f"| {name} | {speed:.0f} | {by_wall:.2f} | {by_cpu:.2f} | {before_gib} | {peak} |", flush=True)


def gibibytes(name: Literal["VmRSS", "VmHWM"]) -> float:
    """Resident memory of this process now, or its peak. (``ru_maxrss`` would include the parent's peak.)"""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 2**20


def side(name: str, job: Job) -> Callable[[], object]:
    """A function that makes one update on this side."""
    if name in TRL:
        from benchmarks import trl_update

        algorithm, _, patched = name.partition("-")
        ids = token_ids(job.rows)
        return trl_update.updates(
            algorithm, ids, PROMPT, microbatch=job.microbatch, autocast=job.precision == "bf16", patched=bool(patched)
        )
    base = load_smollm2() if job.vocabulary is None else random_model(job.vocabulary)
    policy = lora_policies(*base, gradient_checkpointing=name == "learner-blocks")["conversation_0"]
    samples = rows(policy, job.rows)
    if name == "bare":
        return bare(policy, samples, job)
    if name in SUPERVISED:
        return supervised(policy, samples, job, whole=name == "supervised-whole")
    return learner(policy, samples, job, whole=name == "learner-whole")


def random_model(vocabulary: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A small model with a large vocabulary, and a tokenizer that uses little of it."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config), tokenizer


def token_ids(count: int) -> list[list[int]]:
    """Random ids: which tokens they are does not change the time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1000, 40_000, (count, PROMPT + COMPLETION), generator=generator).tolist()


def rows(policy: LanguageModelPolicy, count: int) -> list[Sample]:
    """Rows with log-probabilities close to those of a uniform policy."""
    return [
        Sample(tuple(row[:PROMPT]), tuple(row[PROMPT:]), (-10.0,) * COMPLETION, float(i % 2), i, policy.version)
        for i, row in enumerate(token_ids(count))
    ]


def learner(
    policy: LanguageModelPolicy, samples: Sequence[Sample], job: Job, *, whole: bool = False
) -> Callable[[], object]:
    """This package's update; ``whole``: with all logits of a forward pass at once."""
    config = algorithm("reinforce++", tokens_per_microbatch=job.microbatch * (PROMPT + COMPLETION))
    if whole:
        config = with_settings(config, logits_at_once=2**62)
    built = config.build(policy, Accelerator(cpu=True, mixed_precision=job.precision))
    return lambda: built.update(samples)


def supervised(
    policy: LanguageModelPolicy, samples: Sequence[Sample], job: Job, *, whole: bool = False
) -> Callable[[], object]:
    """One step of the warm start; ``whole``: with all logits of a forward pass at once."""
    config = SupervisedConfig(
        steps=1,
        batch_size=job.rows,
        tokens_per_microbatch=job.microbatch * (PROMPT + COMPLETION),
        bf16=job.precision == "bf16",
    )
    config = replace(config, logits_at_once=2**62) if whole else config
    return lambda: fit(policy, [(sample.prompt_ids, sample.token_ids) for sample in samples], config=config)


def bare(policy: LanguageModelPolicy, samples: Sequence[Sample], job: Job) -> Callable[[], object]:
    """The same in plain PyTorch: no bookkeeping, no metrics."""
    ids = torch.tensor([sample.prompt_ids + sample.token_ids for sample in samples])
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    rewards = torch.tensor([sample.reward for sample in samples])
    optimizer = torch.optim.AdamW(policy.parameters(), lr=5e-7, fused=True)

    def logprobs(part: torch.Tensor, *, reference: bool = False) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=job.precision == "bf16"):
            mask = torch.ones_like(part)
            logits = policy.logits(part, mask, positions[: len(part)], keep=COMPLETION + 1, reference=reference)[:, :-1]
        targets = part[:, PROMPT:]
        return -F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(targets)

    def update() -> None:
        parts = ids.split(job.microbatch)
        with torch.no_grad():
            reference = torch.cat([logprobs(part, reference=True) for part in parts])
        old = torch.full_like(reference, -10.0)
        returns = rewards[:, None] - 0.01 * (old - reference).clamp(-10, 10).flip(1).cumsum(1).flip(1)
        advantages = (returns - returns.mean()) / returns.std(correction=0)
        optimizer.zero_grad()
        for part, a, o in zip(parts, advantages.split(job.microbatch), old.split(job.microbatch), strict=True):
            ratio = (logprobs(part) - o).clamp(-20, 20).exp()
            loss = -torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a).sum() / ids[:, PROMPT:].numel()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()

    return update


if __name__ == "__main__":
    main()
