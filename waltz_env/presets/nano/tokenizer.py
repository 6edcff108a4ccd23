"""A byte-level BPE tokenizer learned from the grammar: 1,100 entries, lossless on any text."""

from __future__ import annotations

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from waltz_env.presets.nano.codes import ONSETS
from waltz_env.presets.nano.examples import examples
from waltz_env.presets.nano.grammar import direct_requests, framings
from waltz_env.presets.nano.topics import TOPICS

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
PAD_ID, END_ID = 0, 1
VOCABULARY = 1_100
CONTEXT = 512
_CORPUS_SEED, _CORPUS_SIZE = 20_251_008, 3_000
_CODE_WORDS = rf" ?[{''.join(ONSETS)}](?=[A-Z][A-Z]\b)|(?<=[A-Z])[A-Z][A-Z]\b"
_PIECES = _CODE_WORDS + r"""|[{", ]*"[a-z]+": "?|'[a-z]+| ?[A-Za-z]+| ?[0-9]+|\s+|[^A-Za-z0-9\s]+"""
"""Boundaries that no token crosses. A code word is two pieces, its onset and its rime, which the ciphers replace
separately. A JSON key may become one token together with the punctuation around it: every feedback has four keys, and
half of its tokens would be punctuation otherwise."""
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer, which is the same every time: its corpus has a seed of its own.

    It pads on the left, ends a turn with ``<|end|>``, and has a chat template.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_PIECES), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, SYSTEM, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=_CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )


def _corpus() -> list[str]:
    """Every topic in every framing once, and a sample of all replies and feedback."""
    asked = [
        request.text
        for topic in TOPICS
        for framing in framings(topic)
        for request in direct_requests(topic, framing)[:1]
    ]
    drawn = list(examples(_CORPUS_SIZE, np.random.default_rng(_CORPUS_SEED)))
    return asked + [text for example in drawn for text in (example.observation["prompt"], example.target)]
