"""How fast is one update of REINFORCE++, against a bare PyTorch loop on the same tokens?

SmolLM2-135M-Instruct, LoRA r=16 on all linear layers, bfloat16 autocast, 32 rows of 104 + 64 tokens. Both sides do the
same work: the reference's log-probabilities (adapters off), then forward, backward and one AdamW step, logits on
completion tokens only. The sides take turns, so that a busy machine slows both; the ratio is the median over repeats.
Every variant runs in a process of its own for its peak memory.

    python benchmarks/update_speed.py --repeats 3
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from torch.nn import functional as F

from waltz_env.agents import Policy, load_smollm2, lora_policies
from waltz_env.algorithms import ReinforcePPConfig
from waltz_env.algorithms.protocols import Sample

ROWS, PROMPT, COMPLETION = 32, 104, 64
SIDES = ("learner", "bare")


def main() -> None:
    """Times both sides and prints their speeds, peaks and ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--microbatch", type=int, default=8, help="rows of one forward pass, on both sides")
    parser.add_argument("--only", choices=SIDES, help="run one side once and print its peak memory")
    arguments = parser.parse_args()
    policy = lora_policies(*load_smollm2())["conversation_0"]
    samples = rows(policy)
    sides = {
        "learner": learner(policy, samples, arguments.microbatch),
        "bare": bare(policy, samples, arguments.microbatch),
    }
    if arguments.only:
        sides[arguments.only]()
        print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f}")
        return
    for update in sides.values():
        update()  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.repeats):
        for name, update in sides.items():
            start = time.perf_counter()
            update()
            seconds[name].append(time.perf_counter() - start)
    print(f"{'side':8} {'tokens/s':>9} {'peak GiB':>9}")
    for name in SIDES:
        command = [sys.executable, __file__, "--only", name, "--microbatch", str(arguments.microbatch)]
        peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
        print(f"{name:8} {ROWS * (PROMPT + COMPLETION) / statistics.median(seconds[name]):9.0f} {peak:>9}")
    ratio = statistics.median(b / a for a, b in zip(seconds["learner"], seconds["bare"], strict=True))
    print(f"learner / bare: {ratio:.2f}")


def rows(policy: Policy) -> list[Sample]:
    """Rows of random ids, with log-probabilities near what a uniform policy gives: the time is that of any tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 40_000, (ROWS, PROMPT + COMPLETION), generator=generator).tolist()
    return [
        Sample(tuple(row[:PROMPT]), tuple(row[PROMPT:]), (-10.0,) * COMPLETION, float(i % 2), i, policy.version)
        for i, row in enumerate(ids)
    ]


def learner(policy: Policy, samples: Sequence[Sample], microbatch: int) -> Callable[[], object]:
    """The update of this package."""
    config = ReinforcePPConfig(tokens_per_microbatch=microbatch * (PROMPT + COMPLETION))
    built = config.build(policy, Accelerator(cpu=True, mixed_precision="bf16"))
    return lambda: built.update(samples)


def bare(policy: Policy, samples: Sequence[Sample], microbatch: int) -> Callable[[], object]:
    """The same in plain PyTorch: no bookkeeping, no metrics."""
    ids = torch.tensor([sample.prompt_ids + sample.token_ids for sample in samples])
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    rewards = torch.tensor([sample.reward for sample in samples])
    optimizer = torch.optim.AdamW(policy.parameters(), lr=5e-7, fused=True)

    def logprobs(part: torch.Tensor, *, reference: bool = False) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            mask = torch.ones_like(part)
            logits = policy.logits(part, mask, positions[: len(part)], keep=COMPLETION + 1, reference=reference)[:, :-1]
        targets = part[:, PROMPT:]
        return -F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(targets)

    def update() -> None:
        parts = ids.split(microbatch)
        with torch.no_grad():
            reference = torch.cat([logprobs(part, reference=True) for part in parts])
        old = torch.full_like(reference, -10.0)
        returns = rewards[:, None] - 0.01 * (old - reference).clamp(-10, 10).flip(1).cumsum(1).flip(1)
        advantages = (returns - returns.mean()) / returns.std(correction=0)
        optimizer.zero_grad()
        for part, a, o in zip(parts, advantages.split(microbatch), old.split(microbatch), strict=True):
            ratio = (logprobs(part) - o).clamp(-20, 20).exp()
            loss = -torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a).sum() / ids[:, PROMPT:].numel()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()

    return update


if __name__ == "__main__":
    main()
