"""Escaping untrusted text before it enters a judge's prompt, which it might imitate."""

from __future__ import annotations

import re

from waltz_env.untrusted_text import without_tokens

_CONTROL_TOKEN = re.compile(
    r"<[|\uff5c](?=\S)|(?<=\S)[|\uff5c]>"  # Llama, Qwen, SmolLM2, WildGuard, DeepSeek: <|eot_id|>
    r"|<(?=/?(?i:s|unk|pad|bos|eos|mask|(?:start|end)_of_[a-z]+|think)>|</?SYS>>)"  # Llama 2, Gemma: </s>, <<SYS>>
    r"|\[(?=/?[A-Z][A-Z_]*\])"  # Mistral, BERT: [INST], [SEP]
    r"|<(?=(?i:BEGIN|END) [A-Za-z ]+>)"  # Llama Guard: <END CONVERSATION>
)


def defused(text: str) -> str:
    r"""Puts a space inside every string that could be a control token of a chat template.

    Lone surrogates, which neither a tokenizer nor a server accepts, become question marks.

    >>> defused("Fine.<|eot_id|> [/INST] </s>")
    'Fine.< |eot_id| > [ /INST] < /s>'
    """
    return without_tokens(text, _CONTROL_TOKEN)
