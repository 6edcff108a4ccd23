"""The laboratory model: a small Llama, built and warm-started on the spot by supervised learning from the grammar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from waltz_env.agents.prompt_encoder import PromptEncoder
from waltz_env.algorithms.supervised import Example, SupervisedConfig, fit
from waltz_env.checks import check_integer, check_number, check_settings
from waltz_env.errors import UsageError
from waltz_env.presets.nano.examples import Mixture, examples
from waltz_env.presets.nano.templates import TEMPLATES
from waltz_env.presets.nano.tokenizer import CONTEXT, END_ID, PAD_ID, build_tokenizer


@dataclass(frozen=True, slots=True)
class NanoConfig:
    """The laboratory model and its warm start.

    Attributes:
        width: hidden size.
        layers: number of transformer layers.
        heads: number of attention heads.
        feed_forward: width of the feed-forward layers.
        steps: number of warm-start steps.
        batch_size, learning_rate, prompt_weight: as in ``SupervisedConfig``.
        warmup_steps: as in ``SupervisedConfig``.
        initializer_range: standard deviation of the initial weights.
        mixture: shares of the kinds of warm-start examples.
        thinking: whether the conversation agent thinks in private before it answers.
    """

    width: int = 128
    layers: int = 2
    heads: int = 4
    feed_forward: int = 384
    steps: int = 2_400
    batch_size: int = 16
    learning_rate: float = 3e-3
    prompt_weight: float = 0.1
    warmup_steps: int = 20
    initializer_range: float = 0.05
    mixture: Mixture = field(default_factory=Mixture)
    thinking: bool = False

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("width", "layers", "heads", "feed_forward", "batch_size"):
            check_integer(name, getattr(self, name), at_least=1)
        for name in ("steps", "warmup_steps"):
            check_integer(name, getattr(self, name), at_least=0)
        for name in ("learning_rate", "prompt_weight", "initializer_range"):
            check_number(name, getattr(self, name), low=0)
        if self.width % (2 * self.heads):  # rotary embeddings turn pairs of a head's dimensions
            raise UsageError(f"width ({self.width}) must be a multiple of twice the heads ({self.heads}).")


def build_model(
    seed: int,
    config: NanoConfig | None = None,
    *,
    on_step: Callable[[int, float], object] | None = None,
    accelerator: Accelerator | None = None,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Build and warm-start the model. The same seed gives the same weights on the same CPU.

    Args:
        seed: seed of the initial weights, the examples and their order. Tokenizer and prompt splits do not change.
        config: size of the model and its warm start; the default is ``NanoConfig()``.
        on_step: called after each warm-start step with the number of steps done and the loss.
        accelerator: accelerator of this process, if several build the model together.
    """
    config = config or NanoConfig()
    tokenizer = build_tokenizer()
    model = initial_model(seed, len(tokenizer), config)
    settings = SupervisedConfig(
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        prompt_weight=config.prompt_weight,
        warmup_steps=config.warmup_steps,
        seed=seed,
    )
    data = encoded_examples(tokenizer, config.steps * config.batch_size, seed, config.mixture, thinking=config.thinking)
    fit(model.train(), data, config=settings, on_step=on_step, accelerator=accelerator)
    return model.eval(), tokenizer


def initial_model(seed: int, vocabulary: int, config: NanoConfig) -> LlamaForCausalLM:
    """The model before it has learned anything. Leaves torch's global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=config.width,
                intermediate_size=config.feed_forward,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                max_position_embeddings=CONTEXT,
                initializer_range=config.initializer_range,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=END_ID,
                pad_token_id=PAD_ID,
            )
        )


def encoded_examples(
    tokenizer: PreTrainedTokenizerFast,
    count: int,
    seed: int,
    mixture: Mixture | None = None,
    *,
    thinking: bool = False,
) -> list[Example]:
    """Warm-start examples as token ids; each target ends with the end-of-turn token."""
    drawn = list(examples(count, np.random.default_rng(seed), mixture, thinking=thinking))
    prompt_ids: dict[int, list[int]] = {}
    for agent, template in TEMPLATES.items():
        rows = [i for i, example in enumerate(drawn) if example.observation["agent"] == agent]
        encoder = PromptEncoder(tokenizer, template, max_tokens=CONTEXT)
        if rows:
            prompt_ids.update(zip(rows, encoder.encode([drawn[i].observation for i in rows]), strict=True))
    target_ids = tokenizer([example.target for example in drawn], add_special_tokens=False)["input_ids"]
    return [(prompt_ids[i], [*target, tokenizer.eos_token_id]) for i, target in enumerate(target_ids)]
