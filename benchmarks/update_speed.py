"""How fast is one update of REINFORCE++, compared with a bare PyTorch loop and with TRL on the same tokens?

SmolLM2-135M-Instruct, LoRA r=16 on all linear layers, 32 rows of 104 + 64 tokens, bfloat16 autocast (`--float32` for
processors that only emulate it, several times slower). All sides do the same work: the reference's log-probabilities
(adapters off), then forward, backward and one AdamW step. The bare loop computes logits on completion tokens only and
has no bookkeeping or metrics. TRL's trainers run their own loop, with sampling replaced by the fixed tokens; `patched`
makes TRL score only completion tokens, as it does by itself where Triton is available.

`--unequal` draws prompts of 26 to 104 tokens and completions of 4 to 64: the bare loop then pads each micro-batch to
its longest row, TRL pads all rows to the longest, and the learner packs rows of similar length. `--layers N` takes
SmolLM2's first N layers of 30, which takes less time; what is outside the layers then counts for more.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from accelerate import Accelerator
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.turns import Seconds, gibibytes, in_turn, seconds
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
        layers: number of SmolLM2's layers; None takes all.
        unequal: whether rows differ in length.
    """

    rows: int
    microbatch: int
    precision: Literal["no", "bf16"]
    vocabulary: int | None = None
    layers: int | None = None
    unequal: bool = False


def main() -> None:
    """Times the sides and prints their speeds, peaks and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--float32", action="store_true", help="no autocast")
    parser.add_argument("--microbatch", type=int, default=8, help="rows per forward pass, on all sides")
    parser.add_argument("--vocabulary", type=int, help="entries of a small random model, which replaces SmolLM2")
    parser.add_argument("--layers", type=int, help="number of SmolLM2's layers; default: all 30")
    parser.add_argument("--unequal", action="store_true", help="rows of different lengths")
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=["learner", "bare"])
    parser.add_argument("--peak", action="store_true", help="run one side once and print its memory before and peak")
    arguments = parser.parse_args()
    precision: Literal["no", "bf16"] = "no" if arguments.float32 else "bf16"
    job = Job(
        arguments.rows,
        min(arguments.microbatch, arguments.rows),
        precision,
        arguments.vocabulary,
        arguments.layers,
        arguments.unequal,
    )
    if arguments.peak:
        update = side(arguments.sides[0], job)
        before = gibibytes("VmRSS")
        update()
        print(f"{before:.2f} {gibibytes('VmHWM'):.2f}")
        return
    measured = compare(arguments.sides, job, rounds=arguments.rounds)
    first = measured[arguments.sides[0]]
    print("| side | tokens/s | ratio | ratio by processor time | GiB before | peak GiB |")
    print("|---|---|---|---|---|---|")
    for name, taken in measured.items():
        speed = tokens_of(job) / statistics.median(each.wall for each in taken)
        by_wall, by_processor = (
            statistics.median(ours[clock] / theirs[clock] for ours, theirs in zip(first, taken, strict=True))
            for clock in (0, 1)
        )
        before, highest = peak(name, job)
        print(f"| {name} | {speed:.0f} | {by_wall:.2f} | {by_processor:.2f} | {before} | {highest} |", flush=True)


def compare(names: Sequence[str], job: Job, *, rounds: int) -> dict[str, list[Seconds]]:
    """Seconds of an update on each side, in each round."""
    return in_turn({name: partial(seconds, side(name, job)) for name in names}, rounds=rounds)


def peak(name: str, job: Job) -> tuple[float, float]:
    """GiB of a new process that makes one update on this side: before it, and at its peak."""
    command = [sys.executable, "-m", "benchmarks.update_speed", "--peak", "--sides", name]
    command += ["--rows", str(job.rows), "--microbatch", str(job.microbatch)]
    command += ["--float32"] * (job.precision == "no")
    command += ["--unequal"] * job.unequal
    command += ["--vocabulary", str(job.vocabulary)] * (job.vocabulary is not None)
    command += ["--layers", str(job.layers)] * (job.layers is not None)
    before, highest = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
    return float(before), float(highest)


def tokens_of(job: Job) -> int:
    """Tokens of all rows, without padding."""
    return sum(len(prompt) + len(completion) for prompt, completion in token_ids(job.rows, unequal=job.unequal))


def side(name: str, job: Job) -> Callable[[], object]:
    """A function that makes one update on this side."""
    base = model_of(job)
    if name in TRL:
        from benchmarks import trl_update

        algorithm, _, patched = name.partition("-")
        return trl_update.updates(
            algorithm,
            base,
            token_ids(job.rows, unequal=job.unequal),
            microbatch=job.microbatch,
            autocast=job.precision == "bf16",
            patched=bool(patched),
        )
    policy = lora_policies(*base, gradient_checkpointing=name == "learner-blocks")["conversation_0"]
    samples = rows(policy, job.rows, unequal=job.unequal)
    if name == "bare":
        return bare(policy, samples, job)
    if name in SUPERVISED:
        return supervised(policy, samples, job, whole=name == "supervised-whole")
    return learner(policy, samples, job, whole=name == "learner-whole")


def model_of(job: Job) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that a job updates, and its tokenizer."""
    return smollm2(job.layers) if job.vocabulary is None else random_model(job.vocabulary)


def smollm2(layers: int | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """SmolLM2-135M-Instruct, or no more than its first layers."""
    model, tokenizer = load_smollm2()
    if layers is not None:
        model.model.layers = model.model.layers[:layers]
        model.config.num_hidden_layers = layers
    return model, tokenizer


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


def token_ids(count: int, *, unequal: bool = False) -> list[tuple[list[int], list[int]]]:
    """Prompts and completions of random ids: which tokens they are does not change the time."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 40_000, (count, PROMPT + COMPLETION), generator=generator).tolist()
    shortest = (PROMPT // 4, COMPLETION // 16) if unequal else (PROMPT, COMPLETION)
    prompts, completions = (
        torch.randint(low, high + 1, (count,), generator=generator).tolist()
        for low, high in zip(shortest, (PROMPT, COMPLETION), strict=True)
    )
    return [
        (row[:prompt], row[PROMPT : PROMPT + completion])
        for row, prompt, completion in zip(ids, prompts, completions, strict=True)
    ]


def rows(policy: LanguageModelPolicy, count: int, *, unequal: bool = False) -> list[Sample]:
    """Rows with log-probabilities close to those of a uniform policy."""
    return [
        Sample(tuple(prompt), tuple(said), (-10.0,) * len(said), float(i % 2), i, policy.version)
        for i, (prompt, said) in enumerate(token_ids(count, unequal=unequal))
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
    parts = [padded(samples[start : start + job.microbatch]) for start in range(0, len(samples), job.microbatch)]
    rewards = torch.tensor([sample.reward for sample in samples]).split(job.microbatch)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=5e-7, fused=True)

    def logprobs(ids: torch.Tensor, mask: torch.Tensor, said: int, *, reference: bool = False) -> torch.Tensor:
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.autocast("cpu", torch.bfloat16, enabled=job.precision == "bf16"):
            logits = policy.logits(ids, mask, positions, keep=said + 1, reference=reference)[:, :-1]
        targets = ids[:, -said:]
        return -F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(targets)

    def update() -> None:
        returns = []
        for (ids, mask, said), reward in zip(parts, rewards, strict=True):
            with torch.no_grad():
                reference = logprobs(ids, mask, said, reference=True)
            penalty = 0.01 * (-10 - reference).clamp(-10, 10) * mask[:, -said:]
            returns.append(reward[:, None] - penalty.flip(1).cumsum(1).flip(1))
        counted = torch.cat([each[mask[:, -said:] > 0] for each, (_, mask, said) in zip(returns, parts, strict=True)])
        mean, scale = counted.mean(), counted.std(correction=0)
        optimizer.zero_grad()
        for (ids, mask, said), each in zip(parts, returns, strict=True):
            counts = mask[:, -said:]
            advantages = (each - mean) / scale * counts / counts.sum(1, keepdim=True)
            ratio = (logprobs(ids, mask, said) + 10).clamp(-20, 20).exp()
            loss = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).sum() / len(samples)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()

    return update


def padded(samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Ids and mask (B, L) with prompts padded on the left and completions on the right, and the longest completion."""
    before, after = (
        max(map(len, parts)) for parts in zip(*((s.prompt_ids, s.token_ids) for s in samples), strict=True)
    )
    ids, mask = torch.zeros(2, len(samples), before + after, dtype=torch.int64)
    for row, sample in enumerate(samples):
        place = slice(before - len(sample.prompt_ids), before + len(sample.token_ids))
        ids[row, place] = torch.tensor(sample.prompt_ids + sample.token_ids)
        mask[row, place] = 1
    return ids, mask, after


if __name__ == "__main__":
    main()
