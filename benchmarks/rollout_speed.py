"""How fast does `TransformersAgent` generate, compared with transformers' `generate` on the same prompts?

Prints new tokens per second of SmolLM2-135M-Instruct on the built-in prompts. Nothing stops early, so all sides do
equal work: `generate` on the merged model; the agent; the agent with its adapter left unmerged, to show what merging
saves; and the agent in bfloat16, if the processor supports it. The last column is the median ratio to `generate` in the
same repeat: on a shared machine, seconds drift but ratios hardly do.

    python -m benchmarks.rollout_speed --rows 16 --new-tokens 48
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig

from benchmarks.turns import in_turn, seconds
from waltz_env.agents import TEMPLATES, LanguageModelPolicy, fast_dtype, load_smollm2, lora_policies
from waltz_env.agents.prompt_encoder import PromptEncoder
from waltz_env.agents.sampling import sample
from waltz_env.game import Game
from waltz_env.prompts import PromptSet
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID

NO_STOP = [-1]


def prompts_of(policy: LanguageModelPolicy, agent: AgentID, rows: int) -> list[list[int]]:
    """Token ids of the agent's first prompts on the built-in set."""
    observations = []
    for prompt in PromptSet.load("builtin:train").shuffle(0)[:rows]:
        game = Game(prompt)
        if agent == FEEDBACK:
            game.act("I'm sorry, but I can't help with that.")
        observations.append(game.observe(agent))
    return PromptEncoder(policy.tokenizer, TEMPLATES[agent], max_tokens=2048).encode(observations)


def by_generate(policy: LanguageModelPolicy, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
    """Runs padded ``generate`` and keeps the log-probabilities that training needs."""
    batch = policy.tokenizer.pad({"input_ids": [list(prompt) for prompt in prompts]}, return_tensors="pt")
    settings = GenerationConfig(
        do_sample=True,
        top_k=0,
        top_p=1.0,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    with policy.sampling_model() as model:
        generator: Any = model
        output = generator.generate(**batch, generation_config=settings)
        sampled = output.sequences[:, -new_tokens:]
        for step, logits in enumerate(output.logits):
            logits.float().log_softmax(-1).gather(-1, sampled[:, step, None])


def by_agent(
    policy: LanguageModelPolicy,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    *,
    dtype: torch.dtype | None = None,
    merged: bool = True,
) -> None:
    """Runs the sampling loop of ``TransformersAgent``."""
    uniforms = torch.rand(len(prompts), new_tokens, dtype=torch.float64)
    with policy.sampling_model(dtype) if merged else nullcontext(policy.model) as model:
        sample(model, prompts, uniforms=uniforms, stop_ids=NO_STOP, temperature=1.0)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    policy = lora_policies(*load_smollm2())[CONVERSATION]

    def unmerged(*work: Any) -> None:
        policy.logits(torch.tensor([[1]]), torch.tensor([[1]]), torch.tensor([[0]]), 1)  # turns the adapter on
        by_agent(*work, merged=False)

    print(f"{'agent':<15} {'how':<10} {'tokens/s':>9} {'ratio':>6}")
    for agent in (CONVERSATION, FEEDBACK):
        prompts = prompts_of(policy, agent, args.rows)
        ways: dict[str, Callable[..., None]] = {"generate": by_generate, "agent": by_agent, "unmerged": unmerged}
        if fast_dtype(policy.device) is torch.bfloat16:
            ways["bfloat16"] = partial(by_agent, dtype=torch.bfloat16)
        calls = {name: partial(seconds, partial(way, policy, prompts, args.new_tokens)) for name, way in ways.items()}
        measured = in_turn(calls, rounds=args.repeats)
        for name, taken in measured.items():
            speed = args.rows * args.new_tokens / statistics.median(each.wall for each in taken)
            ratio = statistics.median(
                ours.wall / base.wall for ours, base in zip(measured["generate"], taken, strict=True)
            )
            print(f"{agent:<15} {name:<10} {speed:>9.1f} {ratio:>6.2f}")


if __name__ == "__main__":
    main()
