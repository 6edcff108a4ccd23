"""A real but tiny model for tests: a two-layer Llama with random weights and a byte-level tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

END = "<|end|>"
PAD = "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 4096


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """261 entries: the 256 bytes and five special tokens. Lossless for any text that UTF-8 can encode."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (PAD, END, *ROLES)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def tiny_model(seed: int = 0, *, layers: int = 2) -> LlamaForCausalLM:
    """A float32 Llama of about 27,000 parameters for ``tiny_tokenizer``, with random weights set by ``seed``."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.2,  # peaked enough distributions that a wrong position or mask shows
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


ARCHITECTURES: Mapping[str, Callable[..., PreTrainedConfig]] = {
    "qwen": Qwen2Config,
    "gemma": Gemma2Config,
    "mistral": MistralConfig,
    "gpt2": GPT2Config,
}


def save_tiny_model(name: str, folder: Path, *, context: int = CONTEXT) -> Path:
    """A model of one of ``ARCHITECTURES`` with random weights, saved as on the hub; many tokens end a turn."""
    tokenizer = tiny_tokenizer()
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_size": 32,
        "max_position_embeddings": context,
        "bos_token_id": None,
        "eos_token_id": [tokenizer.eos_token_id, *range(0, 256, 6)],  # otherwise no turn would be short
        "pad_token_id": tokenizer.pad_token_id,
    }
    if name != "gpt2":
        sizes |= {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(ARCHITECTURES[name](**sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
