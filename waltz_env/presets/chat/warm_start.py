"""The warm start: supervised learning of when to refuse and of the formats, before reinforcement learning begins.

A small model refuses nothing and writes no JSON, so reinforcement learning alone would have nothing to reinforce.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.agents import LanguageModelPolicy, Template, TransformersAgent, lora_policies
from waltz_env.agents.prompt_encoder import PromptEncoder
from waltz_env.agents.transformers_agent import end_of_turn
from waltz_env.algorithms import supervised
from waltz_env.algorithms.supervised import SupervisedConfig, fit
from waltz_env.checks import check_integer, check_number, check_settings
from waltz_env.errors import UsageError
from waltz_env.game import Game
from waltz_env.judges.finding import Finding
from waltz_env.judges.rules import classify_form
from waltz_env.presets.chat.examples import STAND_IN, Answered, Example, Mixture, examples
from waltz_env.presets.chat.options import SystemPrompts
from waltz_env.presets.chat.templates import ANSWER_TEMPLATES, TEMPLATES
from waltz_env.types import AGENTS, CONVERSATION, AgentID, Completion, Prompt

_SENTENCE = re.compile(r"\S.*?\w{2}[.!?](?=\s|$)")
_MIN_WORDS = 6
_APOLOGY = {"I'm", "Sorry,"}
_WARMER = 0.7
_FEW_ANSWERED = 0.5
_WIDTH = 576  # hidden size of the model that the learning rates were chosen for; wider ones need smaller rates


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
DECISIONS = Phase(180, 3e-3, Mixture(draft=0.4, feedback=0.5, whole=0.25))
WHOLE_TURNS = Phase(60, 1.5e-3, Mixture(draft=0.25, feedback=0.6, whole=1.0))


@dataclass(frozen=True, slots=True)
class WarmStart:
    """Settings of the warm start.

    Attributes:
        phases: phases in order. Each has its own LoRA adapter, which is merged into the model before the next phase.
        batch_size, warmup_steps: as in ``SupervisedConfig``.
        rank: rank of the adapters.
        system_prompts: system prompts that the turns are taught under. Under short ones, the first whole sentence of
            the model's own answer is kept, under full ones all of it.
        answer_tokens: token limit of the model's own answer to a prompt.
        sampled_at_once: number of answers sampled at a time.
        tries: largest number of answers drawn per prompt until one is usable.
    """

    phases: tuple[Phase, ...] = (DECISIONS, WHOLE_TURNS)
    batch_size: int = 16
    warmup_steps: int = 8
    rank: int = 16
    system_prompts: SystemPrompts = "short"
    answer_tokens: int = 30
    sampled_at_once: int = 128
    tries: int = 4

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("batch_size", "rank", "answer_tokens", "sampled_at_once", "tries"):
            check_integer(name, getattr(self, name), at_least=1)
        check_integer("warmup_steps", self.warmup_steps, at_least=0)
        if not self.phases:
            raise UsageError("phases must hold at least one Phase; got none.")


def phases_of(steps: int) -> tuple[Phase, ...]:
    """The two phases of a warm start of ``steps`` steps, three quarters of them for the decisions."""
    share = DECISIONS.steps / (DECISIONS.steps + WHOLE_TURNS.steps)
    first = round(share * steps)
    counts = zip((DECISIONS, WHOLE_TURNS), (first, steps - first), strict=True)
    return tuple(replace(phase, steps=count) for phase, count in counts if count)


def teach(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    answered: Sequence[Answered],
    number: int,
    *,
    seed: int,
    config: WarmStart,
    bf16: bool = False,
    agents: Sequence[AgentID] = AGENTS,
) -> LanguageModelPolicy:
    """Train one phase, with a progress bar, and return one policy for all roles of the model on a new adapter.

    Args:
        model: the original model, or the result of the phase before; it gets the adapter.
        tokenizer: tokenizer of the model.
        answered: prompts of both kinds with answers of the original model.
        number: index of the phase, from 0.
        seed: seed of the adapter, the examples and their order.
        config: settings of the whole warm start.
        bf16: whether the forward pass runs under bfloat16 autocast.
        agents: roles that the model plays.
    """
    phase = config.phases[number]
    endless = examples(answered, sys.maxsize, np.random.default_rng(seed + number), phase.mixture)
    own = (example for example in endless if example.observation["agent"] in agents)
    drawn = list(islice(own, phase.steps * config.batch_size))
    settings = SupervisedConfig(
        steps=phase.steps,
        batch_size=config.batch_size,
        learning_rate=phase.learning_rate * min(1.0, _WIDTH / model.config.get_text_config().hidden_size),
        warmup_steps=config.warmup_steps,
        tokens_per_microbatch=1_024,
        bf16=bf16,
        seed=seed,
    )
    (policy,) = lora_policies(model, tokenizer, names=[CONVERSATION], rank=config.rank, seed=seed).values()
    with tqdm(total=phase.steps, desc=f"warm start, {number + 1} of {len(config.phases)}") as bar:
        fit(
            policy,
            encoded(tokenizer, drawn, TEMPLATES[config.system_prompts]),
            config=settings,
            on_step=lambda *_: bar.update(),
        )
    return policy


def own_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    seed: int,
    config: WarmStart,
    sampling_dtype: torch.dtype | None = None,
) -> list[Answered]:
    """The model's own answers: each has six words or more, is not an apology and does not refuse.

    The likeliest answer is taken if it is usable; otherwise others are drawn. Prompts without a usable answer are left
    out. A model that refuses most harmful prompts would leave hardly any: those that it refused then get the beginning
    of an answer, ``STAND_IN``.
    """
    policy = LanguageModelPolicy(model, tokenizer, adapter=None, reference=None, temperature=1.0)
    answered: dict[int, Answered] = {}
    for attempt in range(config.tries):
        agent = TransformersAgent(
            policy,
            ANSWER_TEMPLATES[config.system_prompts],
            max_new_tokens=config.answer_tokens,
            temperature=_WARMER if attempt else 0.0,  # a small model is hardly coherent at 1
            batch_size=config.sampled_at_once,
            seed=seed + attempt,
            sampling_dtype=sampling_dtype,
        )
        left = [i for i in range(len(prompts)) if i not in answered]
        completions = agent.act([Game(prompts[i]).observe(CONVERSATION) for i in left])
        for i, completion in zip(left, completions, strict=True):
            text = _kept(completion, whole=config.system_prompts == "full")
            if _is_usable(prompts[i], text):
                answered[i] = Answered(prompts[i], text)
    harmful = [i for i, prompt in enumerate(prompts) if prompt.harmful]
    if len(answered.keys() & set(harmful)) < _FEW_ANSWERED * len(harmful):
        answered |= {i: Answered(prompts[i], STAND_IN) for i in harmful if i not in answered}
    return [answered[i] for i in sorted(answered)]


def _kept(completion: Completion, *, whole: bool) -> str:
    """What is kept of an answer: all of it if it is wanted and ended by itself, otherwise its first sentence."""
    return completion.text.strip() if whole and completion.finish == "stop" else first_sentence(completion.text)


def _is_usable(prompt: Prompt, text: str) -> bool:
    words = text.split()
    return len(words) >= _MIN_WORDS and words[0] not in _APOLOGY and classify_form(prompt.text, text) is Finding.ANSWER


def first_sentence(text: str) -> str:
    """The first whole sentence; empty if there is none.

    >>> first_sentence("Bake it for an hour. Then let it")
    'Bake it for an hour.'
    """
    match = _SENTENCE.match(text.strip())
    return match[0] if match else ""


def encoded(
    tokenizer: PreTrainedTokenizerBase, drawn: Sequence[Example], templates: Mapping[AgentID, Template]
) -> list[supervised.Example]:
    """Examples as token ids; a whole target ends with the token that ends a turn in the tokenizer's chats."""
    encoders = {agent: PromptEncoder(tokenizer, templates[agent], max_tokens=sys.maxsize) for agent in templates}
    targets = tokenizer([example.target for example in drawn], add_special_tokens=False)["input_ids"]
    end = end_of_turn(tokenizer)
    return [
        (
            encoders[example.observation["agent"]].encode([example.observation])[0],
            [*target, end] if example.ended and end is not None else target,
        )
        for example, target in zip(drawn, targets, strict=True)
    ]
