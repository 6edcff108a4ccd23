"""What a trained feedback agent adds to long answers: the original SmolLM2 answers, and the run's agent reviews.

The answers of a trained smollm2 pair have about 25 tokens, so the original model takes the conversation agent's place:
at temperature 0.7, up to 160 tokens. The prompts are those of ``builtin:test`` whose category is ``plain`` and whose
answer has at least 100 tokens.

    OMP_NUM_THREADS=1 python -m benchmarks.long_answers RUN --prompts 40       # a run of the preset smollm2
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from waltz_env.agents import TransformersAgent, conversation_messages, fast_dtype, full_policy, load_smollm2
from waltz_env.experiments.latency import Way, deployed, timed
from waltz_env.experiments.saved_run import load_run
from waltz_env.game import Game
from waltz_env.judges import load_judge
from waltz_env.prompts import PromptSet
from waltz_env.results_file import Rate
from waltz_env.sampling_options import SamplingOptions
from waltz_env.serving.duet import Mode
from waltz_env.types import CONVERSATION, FEEDBACK, Prompt

LONGEST, LONG = 160, 100  # tokens of an answer
ANSWERS = SamplingOptions(temperature=0.7, seed=0)  # a prompt has the same draft in every mode
MODES: tuple[Mode, ...] = ("off", "adaptive", "always-on")


def main() -> None:
    """Prints a row per way to deploy the pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=40, help="number of plain prompts that are answered")
    arguments = parser.parse_args()
    recipe, bench = load_run(arguments.run, Accelerator(cpu=True))
    model, tokenizer = load_smollm2()
    answering = TransformersAgent(
        full_policy(model, tokenizer),
        conversation_messages,
        max_new_tokens=LONGEST,
        sampling_dtype=fast_dtype(model.device),
        batch_size=16,
    )
    agents = {CONVERSATION: answering, FEEDBACK: bench.agents[FEEDBACK]}
    plain = [prompt for prompt in PromptSet.load("builtin:test") if prompt.category == "plain"]
    prompts = with_long_answers(plain[: arguments.prompts], answering)
    print(f"{len(prompts)} of {arguments.prompts} answers have at least {LONG} tokens.", flush=True)
    with ExitStack() as stack:
        ways: dict[str, Way] = {
            mode: partial(
                stack.enter_context(closing(deployed(agents, mode=mode, rules=recipe.rules))).respond, options=ANSWERS
            )
            for mode in MODES
        }
        found = timed(prompts, ways, agents=list(agents.values()), judge=load_judge(recipe.judge))
    print("| mode | p50, s | times | p95, s | times | tokens | passes | FTR, % | ORR, % |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, way in found.items():
        row = [f"{way['p50']:.1f}", times(way["p50_times"]), f"{way['p95']:.1f}", times(way["p95_times"])]
        row += [f"{way['tokens']:.0f}", f"{way['passes']:.0f}", percent(way["ftr"]), percent(way["orr"])]
        print(f"| {name} | {' | '.join(row)} |")


def with_long_answers(prompts: list[Prompt], agent: TransformersAgent) -> list[Prompt]:
    """The prompts that the agent answers at length."""
    observations = [Game(prompt).observe(CONVERSATION) for prompt in prompts]
    answers = agent.act_with(observations, [ANSWERS] * len(prompts))
    lengths = [answer.usage.completion_tokens for answer in answers if answer.usage is not None]
    return [prompt for prompt, length in zip(prompts, lengths, strict=True) if length >= LONG]


def times(rate: Rate) -> str:
    """A multiple with its interval."""
    return f"{rate['value']:.2f} ({rate['low']:.2f}-{rate['high']:.2f})"


def percent(rate: Rate) -> str:
    """A rate in percent with its interval."""
    if rate["value"] is None or rate["low"] is None or rate["high"] is None:
        return "-"
    return f"{100 * rate['value']:.1f} ({100 * rate['low']:.0f}-{100 * rate['high']:.0f})"


if __name__ == "__main__":
    main()
