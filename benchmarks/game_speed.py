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
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import GenerationConfig

from waltz_env.agents import LanguageModelPolicy, TransformersAgent, VLLMAgent, VLLMEngine, load_smollm2, lora_policies
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
) -> tuple[dict[AgentID, Agent], Callable[[Phase], float]]:
    """The agents, and seconds of the bare engine on one phase."""

    def bare(phase: Phase) -> float:
        name, prompts, counts = phase
        policy = policies[name]
        batch = policy.tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
        settings = GenerationConfig(
            do_sample=True, top_k=0, top_p=1.0, max_new_tokens=max(counts), min_new_tokens=max(counts), pad_token_id=0
        )
        with policy.sampling_model(dtype) as model:
            generator: Any = model
            start = time.perf_counter()
            generator.generate(**batch, generation_config=settings)
            return time.perf_counter() - start

    agents: dict[AgentID, Agent] = {
        name: TransformersAgent(policy, TEMPLATES[name], max_new_tokens=new_tokens, sampling_dtype=dtype)
        for name, policy in policies.items()
    }
    return agents, bare


def with_vllm(
    policies: Mapping[AgentID, LanguageModelPolicy], new_tokens: int, dtype: torch.dtype
) -> tuple[dict[AgentID, Agent], Callable[[Phase], float]]:
    """The agents, and seconds of the bare engine on one phase."""
    from vllm import SamplingParams

    engine = VLLMEngine(list(policies.values()), dtype=dtype, max_model_len=1024)

    def bare(phase: Phase) -> float:
        name, prompts, counts = phase
        engine.sync(policies[name])
        engine._llm.reset_prefix_cache()
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        parameters = [SamplingParams(max_tokens=count, ignore_eos=True, detokenize=False) for count in counts]
        start = time.perf_counter()
        engine._llm.generate(inputs, parameters, use_tqdm=False)
        return time.perf_counter() - start

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
    policies = lora_policies(*load_smollm2())
    prompts = PromptSet.load("builtin:train").shuffle(0)[: arguments.games]
    dtype = torch.float32 if arguments.float32 else torch.bfloat16
    make = {"transformers": with_transformers, "vllm": with_vllm}[arguments.engine]
    agents, bare = make(policies, arguments.new_tokens, dtype)
    agents[FEEDBACK] = Flagging(agents[FEEDBACK])
    print("| round | tokens | games tokens/s | bare tokens/s | ratio |")
    print("|---|---|---|---|---|")
    ratios = []
    for number in range(arguments.rounds + 1):
        change(policies, number)
        start = time.perf_counter()
        games = play(prompts, agents, judge=RefusalJudge())
        seconds = time.perf_counter() - start
        bare_seconds = sum(map(bare, phases(games)))
        tokens = sum(sum(counts) for _, _, counts in phases(games))
        if number:  # the first round warms up
            ratios.append(bare_seconds / seconds)
            print(
                f"| {number} | {tokens} | {tokens / seconds:.0f} | {tokens / bare_seconds:.0f} | {ratios[-1]:.2f} |",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
