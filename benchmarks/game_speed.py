"""How fast is a batch of games, compared with the bare engine on the same prompts and numbers of tokens?

SmolLM2-135M-Instruct plays both roles from two LoRA adapters that have just changed, as after an update. Every game has
a draft, feedback that flags it (the sampled text is replaced by one that asks for a revision) and a revision. The bare
engine, transformers' `generate` or vLLM's `LLM.generate`, then gets the same prompts of the three phases, with merged
weights in place, and generates the same number of tokens for each.

The ratio includes templates, tokenization, log-probabilities, weight sync and its check, parsing, the game and the
judge.

    OMP_NUM_THREADS=2 python -m benchmarks.game_speed --games 32
    OMP_NUM_THREADS=2 python -m benchmarks.game_speed --games 32 --engine vllm      # in vLLM's environment
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from transformers import GenerationConfig

from benchmarks.turns import Seconds, seconds, timed
from benchmarks.update_speed import smollm2
from waltz_env.agents import LanguageModelPolicy, TransformersAgent, VLLMAgent, VLLMEngine, lora_policies
from waltz_env.feedback import format_feedback
from waltz_env.judges import RefusalJudge
from waltz_env.presets.chat.templates import conversation_messages, feedback_messages
from waltz_env.prompts import PromptSet
from waltz_env.protocols import Agent
from waltz_env.rollout import play
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Completion, Labels, Observation, Trajectory

TEMPLATES = {CONVERSATION: conversation_messages, FEEDBACK: feedback_messages}
FLAG = format_feedback(Labels(unsafe=False, overrefuse=True), "Answer the question; there is no harm in it.")
Phase = tuple[AgentID, list[list[int]], list[int]]
"""Who acted, from which prompts, and how many tokens each time."""


@dataclass(frozen=True, slots=True)
class Flagging:
    """Samples as the wrapped agent does, then replaces the text with feedback that asks for a revision."""

    agent: Agent

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        return [replace(completion, text=FLAG) for completion in self.agent.act(observations)]


def phases(games: Sequence[Trajectory]) -> list[Phase]:
    """The completions of each phase of the games."""
    played = [
        (CONVERSATION, [game.responses[0].completion for game in games]),
        (FEEDBACK, [game.critiques[0].completion for game in games]),
        (CONVERSATION, [game.responses[1].completion for game in games]),
    ]
    return [
        (name, [list(c.prompt_ids or ()) for c in said], [len(c.token_ids or ()) for c in said])
        for name, said in played
    ]


def change(policies: Mapping[AgentID, LanguageModelPolicy], step: int) -> None:
    """Changes the weights, as an update does."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for policy in policies.values():
            for tensor in policy.state_dict().values():
                tensor.add_(1e-3 * torch.randn(tensor.shape, generator=generator))


def with_transformers(
    policies: Mapping[AgentID, LanguageModelPolicy], new_tokens: int, dtype: torch.dtype
) -> tuple[dict[AgentID, Agent], Callable[[Phase], Seconds]]:
    """The agents, and seconds of the bare engine on one phase."""

    def bare(phase: Phase) -> Seconds:
        name, prompts, counts = phase
        policy = policies[name]
        batch = policy.tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
        settings = GenerationConfig(
            do_sample=True, top_k=0, top_p=1.0, max_new_tokens=max(counts), min_new_tokens=max(counts), pad_token_id=0
        )
        with policy.sampling_model(dtype) as model:
            generator: Any = model
            return seconds(lambda: generator.generate(**batch, generation_config=settings))

    agents: dict[AgentID, Agent] = {
        name: TransformersAgent(policy, TEMPLATES[name], max_new_tokens=new_tokens, sampling_dtype=dtype)
        for name, policy in policies.items()
    }
    return agents, bare


def with_vllm(
    policies: Mapping[AgentID, LanguageModelPolicy], new_tokens: int, dtype: torch.dtype
) -> tuple[dict[AgentID, Agent], Callable[[Phase], Seconds]]:
    """The agents, and seconds of the bare engine on one phase."""
    from vllm import SamplingParams

    engine = VLLMEngine(list(policies.values()), dtype=dtype, max_model_len=1024)

    def bare(phase: Phase) -> Seconds:
        name, prompts, counts = phase
        engine.sync(policies[name])
        engine._llm.reset_prefix_cache()
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        parameters = [SamplingParams(max_tokens=count, ignore_eos=True, detokenize=False) for count in counts]
        return seconds(lambda: engine._llm.generate(inputs, parameters, use_tqdm=False))

    agents: dict[AgentID, Agent] = {
        name: VLLMAgent(engine, policy, template=TEMPLATES[name], max_new_tokens=new_tokens)
        for name, policy in policies.items()
    }
    return agents, bare


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--games", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64, help="maximum per turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--float32", action="store_true", help="generate in float32 instead of bfloat16")
    arguments = parser.parse_args()
    dtype = torch.float32 if arguments.float32 else torch.bfloat16
    print("| round | tokens | games tokens/s | bare tokens/s | ratio |")
    print("|---|---|---|---|---|")
    ratios = []
    measured = compare(
        arguments.engine, arguments.games, new_tokens=arguments.new_tokens, dtype=dtype, rounds=arguments.rounds
    )
    for number, (tokens, games, bare) in enumerate(measured, start=1):
        ratios.append(bare.wall / games.wall)
        print(
            f"| {number} | {tokens} | {tokens / games.wall:.0f} | {tokens / bare.wall:.0f} | {ratios[-1]:.2f} |",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.2f}")


def compare(
    engine: Literal["transformers", "vllm"],
    count: int,
    *,
    new_tokens: int,
    dtype: torch.dtype,
    rounds: int,
    layers: int | None = None,
) -> Iterator[tuple[int, Seconds, Seconds]]:
    """Of each round, after one that warms up: tokens, seconds of ``count`` games, and of the bare engine on the same.

    Args:
        engine: transformers or vllm.
        count: number of games.
        new_tokens: maximum per turn.
        dtype: dtype of the weights while they generate.
        rounds: number of rounds.
        layers: number of SmolLM2's layers; None takes all.
    """
    policies = lora_policies(*smollm2(layers))
    prompts = PromptSet.load("builtin:train").shuffle(0)[:count]
    agents, bare = {"transformers": with_transformers, "vllm": with_vllm}[engine](policies, new_tokens, dtype)
    agents[FEEDBACK] = Flagging(agents[FEEDBACK])
    for number in range(rounds + 1):
        change(policies, number)
        games, played = timed(partial(play, prompts, agents, judge=RefusalJudge()))
        replayed = [bare(phase) for phase in phases(played)]
        if number:
            tokens = sum(sum(counts) for _, _, counts in phases(played))
            yield tokens, games, Seconds(*map(sum, zip(*replayed, strict=True)))


if __name__ == "__main__":
    main()
