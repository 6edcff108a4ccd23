"""What does a training step cost on 1 to 1,024 GPUs, and a request to the trained pair?

A model on paper, in plain functions: work divided by what the hardware reaches. docs/scale.md says what it leaves out
and how far it is from published and measured figures.

    python benchmarks/scale_model.py                                  # Llama-3.1-8B: steps, hours and dollars
    python benchmarks/scale_model.py --price 2.5 --to docs/images/scale-step.png
    python benchmarks/scale_model.py --checks                         # against published figures
    python benchmarks/scale_model.py --runs SMALL LARGE TWO           # against runs: fewer games, all, two processes
    python benchmarks/scale_model.py --serving                        # the pair against one model
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from waltz_env.types import FEEDBACK

GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
PROMPTS = 10_000  # per stage
TESTED = 4632  # prompts of the five test sets


@dataclass(frozen=True, slots=True)
class Hardware:
    """GPUs and what connects them. Rates are what programs reach, per GPU.

    Attributes:
        flops: FLOP/s of matrix products.
        bandwidth: bytes/s from the GPU's memory.
        memory: bytes of the GPU's memory.
        overhead: seconds that a decode step takes beyond reading and computing.
        node: GPUs per machine.
        in_node: bytes/s to the other GPUs of a machine.
        network: bytes/s to other machines.
        hop: seconds that a message between two GPUs takes, however small.
    """

    flops: float
    bandwidth: float
    memory: float
    overhead: float
    node: int
    in_node: float
    network: float
    hop: float


@dataclass(frozen=True, slots=True)
class Model:
    """A dense transformer in bfloat16.

    Attributes:
        parameters: number of weights.
        layers: number of layers.
        width: entries of the residual stream.
        cache: bytes of keys and values per token.
        adapter: weights of one LoRA adapter; 0 if all weights are trained.
    """

    parameters: float
    layers: int
    width: int
    cache: float
    adapter: float = 0

    @property
    def bytes(self) -> float:
        """Bytes of all weights in bfloat16."""
        return 2 * self.parameters

    def forward(self, tokens: float) -> float:
        """FLOPs per token of a forward pass over a row of that many tokens, with causal attention."""
        return 2 * self.parameters + 2 * self.layers * self.width * tokens


@dataclass(frozen=True, slots=True)
class Lengths:
    """Numbers of new tokens: exponentially distributed and cut off at the longest, or all equal to it.

    Attributes:
        mean: mean number of tokens, with the cut ones counted as cut.
        longest: the limit.
    """

    mean: float
    longest: int

    @property
    def scale(self) -> float:
        """The mean without a cut; infinite if all lengths are equal."""
        if self.mean >= self.longest:
            return math.inf
        low, high = self.mean, 1e9
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (low, middle) if middle * -math.expm1(-self.longest / middle) > self.mean else (middle, high)
        return low

    def alive(self) -> list[float]:
        """For each position below the longest, the share of texts that has a token there."""
        scale = self.scale
        return [math.exp(-position / scale) for position in range(self.longest)]

    def longest_of(self, texts: int) -> float:
        """Expected length of the longest of so many texts."""
        if self.mean >= self.longest or texts <= 1:
            return self.mean if texts <= 1 else self.longest
        share = -math.expm1(-self.longest / self.scale)  # of the texts that end before the cut
        return self.scale * sum(share**number / number for number in range(1, texts + 1))


@dataclass(frozen=True, slots=True)
class Turn:
    """One action of an agent: tokens that it reads, without those in the prefix cache, and tokens that it writes."""

    prompt: float
    new: Lengths

    @property
    def tokens(self) -> float:
        """Mean length of the row that it becomes."""
        return self.prompt + self.new.mean


@dataclass(frozen=True, slots=True)
class Workload:
    """One training step of the game.

    Attributes:
        games: games per step.
        draft: the first response.
        critique: the feedback agent's turn.
        revision: the second response.
        ftr: share of the games that have one.
        rows: rows that a learning agent trains on.
        learners: agents that learn: 1 in stage 1, 2 in stage 2.
        judge: what the judge reads and writes per response.
        passes: forward passes that a row costs: old log-probabilities and reference 1 each, forward and backward 3 (2
            with adapters: frozen weights have no gradient), activations computed again 1.
        microbatch: tokens per forward pass of the learner.
    """

    games: int
    draft: Turn
    critique: Turn
    revision: Turn
    ftr: float
    rows: int
    learners: int
    judge: Turn
    passes: float
    microbatch: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How GPUs share the work.

    Attributes:
        gpus: all of them.
        judge_gpus: those that hold only the judge; 0 if it shares the others.
        sampling_gpus: those that only sample, for the next step, while the others update; 0 if all do both in turn.
    """

    gpus: int
    judge_gpus: int = 0
    sampling_gpus: int = 0

    @property
    def samplers(self) -> int:
        return self.sampling_gpus or self.gpus - self.judge_gpus

    @property
    def learners(self) -> int:
        return self.gpus - self.judge_gpus - self.sampling_gpus


@dataclass(frozen=True, slots=True)
class Step:
    """Seconds of each part of a training step, what limits each, and its bytes over the network per GPU."""

    parts: Mapping[str, float]
    limits: Mapping[str, str]
    traffic: float
    overlapped: bool

    @property
    def seconds(self) -> float:
        """Time of the step: the sum of its parts, or the longer side if sampling and update overlap."""
        update = self.parts["update"] + self.parts["sync"]
        rest = sum(self.parts.values()) - update
        return max(rest, update) if self.overlapped else rest + update

    @property
    def bottleneck(self) -> str:
        """The longest part and what limits it."""
        part = max(self.parts, key=lambda name: self.parts[name])
        return f"{part}: {self.limits[part]}"


H100 = Hardware(
    flops=300e12,  # as docs/tables/llama.md: 30 % of the data sheet
    bandwidth=0.8 * 3.35e12,
    memory=80e9,
    overhead=1e-3,
    node=8,
    in_node=0.8 * 450e9,
    network=0.8 * 50e9,
    hop=2e-6,
)
A100 = replace(H100, flops=0.3 * 312e12, bandwidth=0.8 * 1.555e12, memory=40e9)
LLAMA = Model(8.03e9, layers=32, width=4096, cache=131_072)
LORA = replace(LLAMA, adapter=42e6)
WILDGUARD = Model(7.2e9, layers=32, width=4096, cache=131_072)
PYTHON_LOOP = 20e-3  # of transformers as the sampler
NOTHING = Turn(0, Lengths(0, 0))
SHORT = Lengths(200, 512)
STAGE_2 = Workload(
    games=32,
    draft=Turn(1000, SHORT),
    critique=Turn(1200, SHORT),
    revision=Turn(1400, SHORT),
    ftr=1.0,
    rows=32,
    learners=2,
    judge=Turn(1300, Lengths(20, 20)),
    passes=6,
    microbatch=4096,
)


def decoding(hardware: Hardware, model: Model, rows: float, context: float) -> dict[str, float]:
    """Seconds of one decode step by cause: reading the weights, reading the cache, arithmetic, overhead.

    The arithmetic counts where it takes longer than reading, and then instead of it.
    """
    reading = {
        "weights": model.bytes / hardware.bandwidth,
        "cache": rows * context * model.cache / hardware.bandwidth,
    }
    arithmetic = rows * 2 * model.parameters / hardware.flops
    if arithmetic > sum(reading.values()):
        return {"weights": 0.0, "cache": 0.0, "arithmetic": arithmetic, "overhead": hardware.overhead}
    return {**reading, "arithmetic": 0.0, "overhead": hardware.overhead}


def sampling(hardware: Hardware, model: Model, turn: Turn, texts: int, gpus: int, *, held: float) -> dict[str, float]:
    """Seconds, by cause, in which so many texts are sampled by engines of one GPU each; the turn ends with the longest.

    Args:
        hardware: the GPUs.
        model: what they sample from.
        turn: prompt and new tokens of each text.
        texts: number of texts.
        gpus: number of engines; texts are spread evenly.
        held: bytes per GPU that are not free for the cache.
    """
    if texts == 0:
        return {"prompts": 0.0}
    engines = min(gpus, texts)
    here = texts / engines
    room = max(1.0, (0.9 * hardware.memory - held) / (model.cache * (turn.prompt + turn.new.mean)))
    waves = math.ceil(here / room)
    seconds = {"prompts": math.ceil(here) * turn.prompt * model.forward(turn.prompt) / hardware.flops}
    full = Turn(turn.prompt, Lengths(turn.new.mean, max(1, round(turn.new.mean))))
    for wave in range(waves):
        last = wave == waves - 1
        lengths = turn.new if last else full.new  # where texts wait, a new one takes the place of each that ends
        for position, alive in enumerate(lengths.alive()):
            anywhere = 1 - (1 - alive) ** (texts / waves)  # chance that some engine still has a text
            rows = max(1.0, here / waves * alive / anywhere)  # the engine with the longest text has that one
            for cause, time in decoding(hardware, model, rows, turn.prompt + position).items():
                seconds[cause] = seconds.get(cause, 0.0) + anywhere * time
    return seconds


def communication(hardware: Hardware, gpus: int, size: float, messages: int = 1) -> float:
    """Seconds to gather, or to scatter, a tensor of ``size`` bytes that so many GPUs hold in parts, in a ring."""
    if gpus == 1:
        return 0.0
    across = min(hardware.in_node, hardware.node * hardware.network) if gpus > hardware.node else hardware.in_node
    return size * (gpus - 1) / gpus / across + messages * (gpus - 1) * hardware.hop


def updating(hardware: Hardware, model: Model, turn: Turn, load: Workload, gpus: int) -> tuple[float, float, float]:
    """Seconds of arithmetic, seconds of communication, and bytes per GPU of one agent's update.

    The GPU with the longest rows sets the pace. All weights are sharded and gathered for each of four passes of each
    micro-batch, and the gradients scattered once, in float32; of adapters only the gradients are summed.
    """
    busy = min(gpus, load.rows)
    share = math.ceil(load.rows / busy)
    tokens = share * turn.tokens + math.sqrt(share) * (turn.new.longest_of(busy) - turn.new.mean)
    arithmetic = tokens * load.passes * model.forward(turn.tokens) / hardware.flops
    if gpus == 1:
        return arithmetic, 0.0, 0.0
    if model.adapter:
        size = 4 * model.adapter
        return arithmetic, 2 * communication(hardware, gpus, size), 2 * size * (gpus - 1) / gpus
    batches = math.ceil(tokens / load.microbatch)
    size = batches * (4 * model.bytes + 4 * model.parameters)
    return (
        arithmetic,
        communication(hardware, gpus, size, messages=batches * 5 * model.layers),
        size * (gpus - 1) / gpus,
    )


def held(model: Model, plan: Plan) -> float:
    """Bytes beside the cache on a GPU that samples: a policy, 5 GB to work with, and what is trained there.

    That is two adapters on every GPU, or a share of two policies and their reference. Weights, gradients and AdamW's
    moments take 16 bytes per parameter in float32.
    """
    if model.adapter:
        return model.bytes + 2 * 16 * model.adapter + 5e9
    trained = 0.0 if plan.sampling_gpus else (2 * 16 + 2) * model.parameters / plan.learners
    return model.bytes + trained + 5e9


def step(hardware: Hardware, model: Model, judge: Model, load: Workload, plan: Plan) -> Step:
    """One training step. A turn without new tokens is not played; a judge that writes nothing costs nothing."""
    taken = held(model, plan) + (judge.bytes if load.judge.new.longest and not plan.judge_gpus else 0.0)
    texts = {"draft": load.games, "critique": load.games, "revision": round(load.games * load.ftr)}
    turns = {"draft": load.draft, "critique": load.critique, "revision": load.revision}
    turns = {name: turn for name, turn in turns.items() if turn.new.longest}
    turn_seconds: dict[str, float] = {}
    causes: dict[str, float] = {}
    for name, turn in turns.items():
        by_cause = sampling(hardware, model, turn, texts[name], plan.samplers, held=taken)
        turn_seconds[name] = sum(by_cause.values())
        for cause, time in by_cause.items():
            causes[cause] = causes.get(cause, 0.0) + time

    judging = 0.0
    for name in ("draft", "revision") if load.judge.new.longest else ():
        judges = plan.judge_gpus or plan.samplers
        seconds = sum(sampling(hardware, judge, load.judge, texts[name], judges, held=judge.bytes).values())
        hidden = turn_seconds["critique"] if name == "draft" and plan.judge_gpus else 0.0  # judged meanwhile
        judging += max(0.0, seconds - hidden)

    rows = [load.critique] if load.learners == 1 else [load.critique, load.draft]
    updates = [updating(hardware, model, turn, load, plan.learners) for turn in rows]
    arithmetic, network = (sum(update[number] for update in updates) for number in (0, 1))

    synced = load.learners * (2 * model.adapter or model.bytes)
    if not model.adapter and not plan.sampling_gpus:  # the GPUs that train gather the weights of each turn's policy
        synced = len(turns) * model.bytes
    return Step(
        parts={
            "sampling": sum(turn_seconds.values()),
            "judge": judging,
            "update": sum(max(update[:2]) for update in updates),
            "sync": communication(hardware, plan.gpus, synced) + synced / hardware.bandwidth,
        },
        limits={
            "sampling": max(causes, key=lambda cause: causes[cause]),
            "judge": "its GPUs" if plan.judge_gpus else "shared GPUs",
            "update": "network" if network > arithmetic else "arithmetic",
            "sync": "network",
        },
        traffic=sum(update[2] for update in updates) + (synced if plan.gpus > 1 else 0.0),
        overlapped=plan.sampling_gpus > 0,
    )


def fits(hardware: Hardware, model: Model, judge: Model, plan: Plan) -> bool:
    """Whether the weights and a cache of 4 GB fit a GPU."""
    return held(model, plan) + (0 if plan.judge_gpus else judge.bytes) + 4e9 <= hardware.memory


def fastest(hardware: Hardware, model: Model, load: Workload, gpus: int) -> Plan | None:
    """The fastest plan that fits: the judge shares all GPUs, or has 1, 2, 4, ... of them to itself."""
    pools = [0, *(2**number for number in range(gpus.bit_length()) if 2**number < gpus)]
    plans = [Plan(gpus, judge_gpus=pool) for pool in pools]
    fitting = [plan for plan in plans if fits(hardware, model, WILDGUARD, plan)]
    return min(fitting, key=lambda plan: step(hardware, model, WILDGUARD, load, plan).seconds, default=None)


def hours(hardware: Hardware, model: Model, load: Workload, plan: Plan) -> float:
    """Both stages of the paper, one epoch of 10,000 prompts each, with evaluation before and after."""
    stages = (replace(load, learners=1), load)
    training = sum(step(hardware, model, WILDGUARD, stage, plan).seconds * PROMPTS / load.games for stage in stages)
    parts = step(hardware, model, WILDGUARD, replace(load, games=TESTED), plan).parts
    return (training + 2 * (parts["sampling"] + parts["judge"])) / 3600


def requests_per_second(
    hardware: Hardware, model: Model, turns: Sequence[tuple[Turn, float]], concurrent: int
) -> float:
    """Answers per second of one GPU that always has so many requests in progress. Their latency is the quotient.

    Args:
        hardware: the GPU.
        model: the one base of all adapters.
        turns: what a request consists of: each turn, and the share of the requests that have it.
        concurrent: number of requests in progress.
    """
    prompts = sum(share * turn.prompt * model.forward(turn.prompt) for turn, share in turns) / hardware.flops
    tokens = sum(share * turn.new.mean for turn, share in turns)
    context = sum(share * turn.new.mean * (turn.prompt + turn.new.mean / 2) for turn, share in turns) / tokens
    return 1 / (prompts + tokens * sum(decoding(hardware, model, concurrent, context).values()) / concurrent)


def pair(prompt: float, answer: float, critique: float, flagged: float, ftr: float) -> list[tuple[Turn, float]]:
    """The turns of a request to the pair.

    Args:
        prompt: tokens of the user's chat.
        answer: tokens of a draft or a revision.
        critique: tokens of a critique that flags nothing; it ends there.
        flagged: tokens of one that flags something.
        ftr: share of the requests whose draft is flagged.
    """
    mean = (1 - ftr) * critique + ftr * flagged

    def turn(read: float, written: float) -> Turn:
        return Turn(read, Lengths(written, max(1, round(written))))

    return [(turn(prompt, answer), 1), (turn(prompt + answer, mean), 1), (turn(answer + flagged, answer), ftr)]


def published() -> list[tuple[str, float, float]]:
    """What was published: a figure, its value there, and the model's. Sources and settings: docs/tables/scale.md."""
    whole = Turn(0, Lengths(8192, 8192))

    def grpo(tokens: float, plan: Plan) -> float:
        """Seconds of a step on 2,048 texts of so many tokens, at most 4,096, of which the prompt is taken to be 100."""
        turn = Turn(100, Lengths(tokens - 100, 3996))
        load = replace(
            STAGE_2,
            games=2048,
            draft=NOTHING,
            critique=turn,
            revision=NOTHING,
            rows=2048,
            learners=1,
            judge=NOTHING,
        )
        return step(H100, LLAMA, WILDGUARD, load, plan).seconds

    def trained(gpus: int) -> float:
        """Tokens per second and GPU of training on text, where half of the activations are computed again."""
        rows = replace(STAGE_2, rows=2 * gpus, passes=3.5, microbatch=2 * 8192)
        return 2 * 8192 / max(updating(H100, LLAMA, whole, rows, gpus)[:2])

    def token(hardware: Hardware, rows: int, context: int) -> float:
        """Milliseconds per token of each request."""
        return 1000 * sum(decoding(hardware, LLAMA, rows, context).values())

    return [
        ("training on text, 8 GPUs, tokens/s per GPU", 5762, trained(8)),
        ("training on text, 128 GPUs, tokens/s per GPU", 5605, trained(128)),
        ("a step of GRPO, 16 GPUs, s", 92.8, grpo(1019, Plan(16))),
        ("a step of GRPO, 8 GPUs sample for 8 others, s", 64.8, grpo(1123, Plan(16, sampling_gpus=8))),
        ("a token for 1 request, A100, ms", 1000 / 75, token(A100, 1, 1088)),
        ("a token for 1 request, H100, ms", 6.48, token(H100, 1, 500)),
        ("a token for each of 16 requests, H100, ms", 10.94, token(H100, 16, 500)),
    ]


def measured(run: Path) -> tuple[float, dict[str, float]]:
    """Games per step and the least seconds of each part in stage 2 of a run."""
    with (run / "metrics.jsonl").open(encoding="utf-8") as lines:
        steps = [row for row in map(json.loads, lines) if row["stage"] == "stage-2"]
    ends = {"sampling": "/act_seconds", "update": "/update_seconds"}
    return steps[-1][f"{FEEDBACK}/rows"], {
        part: min(sum(seconds for name, seconds in row.items() if name.endswith(end)) for row in steps)
        for part, end in ends.items()
    }


def halved(small: tuple[float, dict[str, float]], large: tuple[float, dict[str, float]]) -> dict[str, float]:
    """What ``large`` should take in two processes: each part's fixed time, and its time per game for half of them."""
    (few, short), (many, long) = small, large
    each = {part: (long[part] - short[part]) / (many - few) for part in long}
    return {part: long[part] - each[part] * many / 2 for part in long}


def table(model: Model, load: Workload, hardware: Hardware, price: float) -> None:
    """Prints one line per number of GPUs: seconds of each part, dollars per step, hours of both stages."""
    print("| GPUs | for the judge | sampling | judge | update | sync | step, s | $ | hours | GB sent | bottleneck |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for gpus in GPUS:
        plan = fastest(hardware, model, load, gpus)
        if plan is None:
            print(f"| {gpus} | does not fit |")
            continue
        made = step(hardware, model, WILDGUARD, load, plan)
        parts = " | ".join(f"{seconds:.2f}" for seconds in made.parts.values())
        print(
            f"| {gpus} | {plan.judge_gpus or 'shared'} | {parts} | {made.seconds:.1f} "
            f"| {made.seconds * gpus * price / 3600:.3f} | {hours(hardware, model, load, plan):.1f} "
            f"| {made.traffic / 1e9:.1f} | {made.bottleneck} |"
        )


def served(price: float) -> None:
    """Prints what a GPU that serves the pair answers, against the conversation agent alone."""
    print("| answer, tokens | critique | FTR, % | concurrent | alone, requests/s | pair | ratio | $ per 1,000 |")
    print("|---|---|---|---|---|---|---|---|")
    for answer, critique in ((100, 25), (100, 100), (400, 25), (400, 100)):
        for ftr in (0.05, 0.2):
            for concurrent in (1, 64):
                turns = pair(300, answer, critique, 100, ftr)
                alone = requests_per_second(H100, LORA, turns[:1], concurrent)
                both = requests_per_second(H100, LORA, turns, concurrent)
                print(
                    f"| {answer} | {critique} | {100 * ftr:.0f} | {concurrent} | {alone:.2f} | {both:.2f} "
                    f"| {both / alone:.2f} | {price / 3.6 / both:.2f} |"
                )


def draw(path: Path, loads: Mapping[str, Workload], hardware: Hardware) -> None:
    """Seconds of each part of a step against the number of GPUs."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    looks = {
        "sampling": ("#0072B2", "o"),
        "judge": ("#E69F00", "s"),
        "update": ("#009E73", "^"),
        "sync": ("#CC79A7", "v"),
    }
    figure, panels = plt.subplots(1, len(loads), figsize=(9, 3.8), layout="constrained")
    for axes, (title, load) in zip(panels, loads.items(), strict=True):
        plans = {gpus: fastest(hardware, LORA, load, gpus) for gpus in GPUS}
        steps = {gpus: step(hardware, LORA, WILDGUARD, load, plan) for gpus, plan in plans.items() if plan}
        axes.plot(
            list(steps), [made.seconds for made in steps.values()], color="black", linewidth=2.5, label="the step"
        )
        for part, (color, marker) in looks.items():
            seconds = [made.parts[part] for made in steps.values()]
            axes.plot(list(steps), seconds, color=color, marker=marker, markersize=4, label=part)
        axes.set(xscale="log", yscale="log", title=title, xlabel="GPUs", ylabel="seconds per step", xticks=GPUS[::2])
        axes.set_xticklabels([f"{gpus:,}" for gpus in GPUS[::2]])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[1].legend(fontsize="small")
    figure.savefig(path, dpi=100)


def main() -> None:
    """Prints what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--price", type=float, default=2.5, help="dollars per GPU and hour")
    parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm", help="what samples")
    parser.add_argument("--checks", action="store_true", help="compare with published figures instead")
    parser.add_argument("--serving", action="store_true", help="serve a pair instead of training it")
    parser.add_argument("--runs", type=Path, nargs=3, metavar=("FEWER", "ALL", "TWO"), help="compare with runs instead")
    parser.add_argument("--to", type=Path, help="also draw the steps of adapters to this picture")
    arguments = parser.parse_args()
    if arguments.checks:
        for what, there, here in published():
            print(f"{what:46} published {there:7.1f}, model {here:7.1f}, {here / there - 1:+.0%}")
        return
    if arguments.runs:
        fewer, every, two = (measured(run) for run in arguments.runs)
        for part, seconds in halved(fewer, every).items():
            print(f"{part}: one process {every[1][part]:.2f} s, two {two[1][part]:.2f} s, model {seconds:.2f} s")
        return
    if arguments.serving:
        served(arguments.price)
        return
    hardware = H100 if arguments.engine == "vllm" else replace(H100, overhead=PYTHON_LOOP)
    loads = {f"{games:,} games per step": replace(STAGE_2, games=games, rows=games) for games in (32, 4096)}
    models = {"two adapters": LORA, "all weights": LLAMA}
    if arguments.engine == "transformers":
        del models["all weights"]  # would be gathered for every token: docs/tables/llama.md
    for name, model in models.items():
        for title, load in loads.items():
            print(f"\n{name}, {title}\n")
            table(model, replace(load, passes=5 if model.adapter else 6), hardware, arguments.price)
    if arguments.to:
        draw(arguments.to, {title: replace(load, passes=5) for title, load in loads.items()}, hardware)


if __name__ == "__main__":
    main()
