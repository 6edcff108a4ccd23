"""The warm start: supervised learning of when to refuse and of the formats, before reinforcement learning begins.

The original model refuses nothing and writes no JSON, so reinforcement learning alone would have nothing to reinforce.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.agents import LanguageModelPolicy, TransformersAgent, lora_policies
from waltz_env.agents.prompt_encoder import PromptEncoder
from waltz_env.algorithms import supervised
from waltz_env.algorithms.supervised import SupervisedConfig, fit
from waltz_env.checks import check_integer, check_number, check_settings
from waltz_env.errors import UsageError
from waltz_env.game import Game
from waltz_env.judges.finding import Finding
from waltz_env.judges.rules import classify
from waltz_env.presets.smollm2.examples import Answered, Example, Mixture, examples
from waltz_env.presets.smollm2.templates import TEMPLATES, brief_messages
from waltz_env.types import CONVERSATION, Prompt

_SENTENCE = re.compile(r"\S.*?\w{2}[.!?](?=\s|$)")
_MIN_WORDS = 6
_APOLOGY = {"I'm", "Sorry,"}
_WARMER = 0.7
_MAX_PROMPT = 512


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of the warm start: its number of steps, its learning rate, and the mixture of its examples."""

    steps: int
    learning_rate: float
    mixture: Mixture

    def __post_init__(self) -> None:
        check_settings(self)
        check_integer("steps", self.steps, at_least=0)
        check_number("learning_rate", self.learning_rate, low=0)


# Most examples teach when to refuse and when to flag. How flags follow from the reasoning is learned quickly once
# feedback is taught to its end.
DECISIONS = Phase(240, 3e-3, Mixture(draft=0.4, feedback=0.5, whole=0.25))
WHOLE_TURNS = Phase(80, 1.5e-3, Mixture(draft=0.25, feedback=0.6, whole=1.0))


@dataclass(frozen=True, slots=True)
class WarmStart:
    """Settings of the warm start.

    Attributes:
        phases: phases in order. Each has its own LoRA adapter, which is merged into the model before the next phase.
        batch_size, warmup_steps: as in ``SupervisedConfig``.
        rank: rank of the adapters.
        answer_tokens: token limit of the model's own answer to a prompt; the first whole sentence is kept.
        tries: largest number of answers drawn per prompt until one is usable.
    """

    phases: tuple[Phase, ...] = (DECISIONS, WHOLE_TURNS)
    batch_size: int = 16
    warmup_steps: int = 8
    rank: int = 16
    answer_tokens: int = 30
    tries: int = 4

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("batch_size", "rank", "answer_tokens", "tries"):
            check_integer(name, getattr(self, name), at_least=1)
        check_integer("warmup_steps", self.warmup_steps, at_least=0)
        if not self.phases:
            raise UsageError("phases must hold at least one Phase; got none.")


def teach(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    answered: Sequence[Answered],
    number: int,
    *,
    seed: int,
    config: WarmStart,
    bf16: bool = False,
) -> LanguageModelPolicy:
    """Train one phase, with a progress bar, and return one policy for both roles on a new adapter.

    Args:
        model: the original model, or the result of the phase before; it gets the adapter.
        tokenizer: tokenizer of the model.
        answered: prompts of both kinds with answers of the original model.
        number: index of the phase, from 0.
        seed: seed of the adapter, the examples and their order.
        config: settings of the whole warm start.
        bf16: whether the forward pass runs under bfloat16 autocast.
    """
    phase = config.phases[number]
    drawn = list(
        examples(answered, phase.steps * config.batch_size, np.random.default_rng(seed + number), phase.mixture)
    )
    settings = SupervisedConfig(
        steps=phase.steps,
        batch_size=config.batch_size,
        learning_rate=phase.learning_rate,
        warmup_steps=config.warmup_steps,
        tokens_per_microbatch=1_024,
        bf16=bf16,
        seed=seed,
    )
    (policy,) = lora_policies(model, tokenizer, names=[CONVERSATION], rank=config.rank, seed=seed).values()
    with tqdm(total=phase.steps, desc=f"warm start, {number + 1} of {len(config.phases)}") as bar:
        fit(policy, encoded(tokenizer, drawn), config=settings, on_step=lambda *_: bar.update())
    return policy


def own_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    seed: int,
    config: WarmStart,
    sampling_dtype: torch.dtype | None = None,
) -> list[Answered]:
    """The model's own answers, each a sentence of six words or more that is not an apology.

    The likeliest answer is taken if it is usable; otherwise others are drawn. Prompts without a usable answer are left
    out.
    """
    policy = LanguageModelPolicy(model, tokenizer, adapter=None, reference=None, temperature=1.0)
    answered: dict[int, Answered] = {}
    for attempt in range(config.tries):
        agent = TransformersAgent(
            policy,
            brief_messages,
            max_new_tokens=config.answer_tokens,
            temperature=_WARMER if attempt else 0.0,  # a model of this size is hardly coherent at 1
            batch_size=128,
            seed=seed + attempt,
            sampling_dtype=sampling_dtype,
        )
        left = [i for i in range(len(prompts)) if i not in answered]
        completions = agent.act([Game(prompts[i]).observe(CONVERSATION) for i in left])
        for i, completion in zip(left, completions, strict=True):
            text = first_sentence(completion.text)
            if _is_usable(prompts[i], text):
                answered[i] = Answered(prompts[i], text)
    return [answered[i] for i in sorted(answered)]


def _is_usable(prompt: Prompt, text: str) -> bool:
    words = text.split()
    return len(words) >= _MIN_WORDS and words[0] not in _APOLOGY and classify(prompt.text, text) is Finding.ANSWER


def first_sentence(text: str) -> str:
    """The first whole sentence; empty if there is none.

    >>> first_sentence("Bake it for an hour. Then let it")
    'Bake it for an hour.'
    """
    match = _SENTENCE.match(text.strip())
    return match[0] if match else ""


def encoded(tokenizer: PreTrainedTokenizerBase, drawn: Sequence[Example]) -> list[supervised.Example]:
    """Examples as token ids; a whole target ends with the end-of-turn token."""
    encoders = {agent: PromptEncoder(tokenizer, TEMPLATES[agent], max_tokens=_MAX_PROMPT) for agent in TEMPLATES}
    targets = tokenizer([example.target for example in drawn], add_special_tokens=False)["input_ids"]
    return [
        (
            encoders[example.observation["agent"]].encode([example.observation])[0],
            [*target, tokenizer.eos_token_id] if example.ended else target,
        )
        for example, target in zip(drawn, targets, strict=True)
    ]
