"""The warm start: supervised learning of what feedback and revisions look like, before reinforcement learning begins.

The original model refuses nothing and writes no JSON, so that reinforcement learning would have nothing to reinforce.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.agents import Policy, TransformersAgent, lora_policies
from waltz_env.agents.prompt_encoder import PromptEncoder
from waltz_env.algorithms import supervised
from waltz_env.algorithms.supervised import SupervisedConfig, fit
from waltz_env.game import Game
from waltz_env.judges.finding import Finding
from waltz_env.judges.rules import classify
from waltz_env.presets.smollm2.examples import Answered, Example, Mixture, examples
from waltz_env.presets.smollm2.templates import TEMPLATES, brief_messages
from waltz_env.types import CONVERSATION, Prompt

_SENTENCE = re.compile(r"\S.*?\w{2}[.!?](?=\s|$)")
_MIN_WORDS = 6
_MAX_PROMPT = 512


@dataclass(frozen=True, slots=True)
class WarmStart:
    """Settings of the warm start.

    Attributes:
        prompts: number of training prompts that it uses at most.
        steps: of supervised learning. batch_size, learning_rate, warmup_steps: as in ``SupervisedConfig``.
        rank: of the LoRA adapter that learns; it is merged into the model afterwards.
        answer_tokens: of the model's own answer to a prompt at most; its first whole sentence is kept.
        mixture: of the examples.
    """

    prompts: int = 600
    steps: int = 240
    batch_size: int = 6
    learning_rate: float = 5e-4
    warmup_steps: int = 8
    rank: int = 16
    answer_tokens: int = 30
    mixture: Mixture = field(default_factory=Mixture)


def warm_start(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    seed: int,
    config: WarmStart | None = None,
    sampling_dtype: torch.dtype | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Policy:
    """One policy for both roles; merged into the model, it is what reinforcement learning starts from.

    Args:
        model: the original model; gets the adapter.
        tokenizer: its tokenizer.
        prompts: of both kinds; the first ``config.prompts`` are used.
        seed: of the adapter, the examples and their order.
        config: defaults to ``WarmStart()``.
        sampling_dtype: precision of the answers, and of the learner's forward pass where it is bfloat16.
        on_step: called after each step with the number of steps done and the loss.
    """
    config = config or WarmStart()
    answered = own_answers(
        model, tokenizer, prompts[: config.prompts], max_new_tokens=config.answer_tokens, sampling_dtype=sampling_dtype
    )
    count = config.steps * config.batch_size
    drawn = list(examples(answered, count, np.random.default_rng(seed), config.mixture))
    settings = SupervisedConfig(
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        tokens_per_microbatch=1_024,
        bf16=sampling_dtype is torch.bfloat16,
        seed=seed,
    )
    (policy,) = lora_policies(model, tokenizer, names=[CONVERSATION], rank=config.rank, seed=seed).values()
    fit(policy, encoded(tokenizer, drawn), settings, on_step=on_step)
    return policy


def own_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    sampling_dtype: torch.dtype | None = None,
) -> list[Answered]:
    """The model's likeliest answers, a sentence of six words or more each; prompts without one are left out."""
    policy = Policy(model, tokenizer, adapter=None, reference=None, temperature=1.0)
    agent = TransformersAgent(
        policy,
        brief_messages,
        max_new_tokens=max_new_tokens,
        temperature=0.0,  # the likeliest answer: a model of this size is hardly coherent at 1
        batch_size=128,
        sampling_dtype=sampling_dtype,
    )
    completions = agent.act([Game(prompt).observe(CONVERSATION) for prompt in prompts])
    sentences = [first_sentence(completion.text) for completion in completions]
    return [
        Answered(prompt, text)
        for prompt, text in zip(prompts, sentences, strict=True)
        if len(text.split()) >= _MIN_WORDS and classify(prompt.text, text) is Finding.ANSWER
    ]


def first_sentence(text: str) -> str:
    """The first whole sentence; empty if there is none.

    >>> first_sentence("Bake it for an hour. Then let it")
    'Bake it for an hour.'
    """
    match = _SENTENCE.match(text.strip())
    return match[0] if match else ""


def encoded(tokenizer: PreTrainedTokenizerBase, drawn: Sequence[Example]) -> list[supervised.Example]:
    """Examples as token ids; each target ends with the end-of-turn token."""
    encoders = {agent: PromptEncoder(tokenizer, TEMPLATES[agent], max_tokens=_MAX_PROMPT) for agent in TEMPLATES}
    targets = tokenizer([example.target for example in drawn], add_special_tokens=False)["input_ids"]
    return [
        (encoders[example.observation["agent"]].encode([example.observation])[0], [*target, tokenizer.eos_token_id])
        for example, target in zip(drawn, targets, strict=True)
    ]
