"""Observations to token ids, through a template and the tokenizer's own chat template, whatever the texts hold."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from waltz_env.agents.templates import Template
from waltz_env.chat_template import Chat, ChatTemplate
from waltz_env.errors import UnreadablePromptError
from waltz_env.types import Message, Observation
from waltz_env.untrusted_text import without_tokens


class PromptEncoder:
    """Encodes what an agent is conditioned on, up to where the assistant speaks.

    * Lone surrogates are replaced. A special token of the tokenizer that a text spells out is broken by a space, so
      that no text can end its own turn.
    * The chat is brought into the form that the tokenizer's chat template accepts, see ``ChatTemplate``.
    * Nothing is cut: a prompt that is too long is an error.

    Args:
        tokenizer: a tokenizer with a chat template.
        template: turns an observation into chat messages.
        max_tokens: longest prompt, in tokens.

    Raises:
        UsageError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Template, *, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.max_tokens = max_tokens
        self._chat_template = ChatTemplate(tokenizer)
        self._special = _special_tokens(tokenizer)

    def encode(self, observations: Sequence[Observation]) -> list[list[int]]:
        """Ids per observation, in order.

        Raises:
            UnreadablePromptError: some prompts are too long, or the chat template refuses them.
        """
        chats = [self._chat(observation) for observation in observations]
        prompts: list[list[int]] = self._chat_template.render(chats, add_generation_prompt=True, return_dict=False)
        lengths = {row: len(ids) for row, ids in enumerate(prompts) if len(ids) > self.max_tokens}
        if lengths:
            raise UnreadablePromptError(
                f"{len(lengths)} of {len(prompts)} prompts are too long: the longest has {max(lengths.values()):,} "
                f"tokens, and {self.max_tokens:,} fit. Use shorter prompts, a model with a longer context or fewer new "
                "tokens, or leave such prompts out (waltz train --loop.exclude-unreadable, waltz evaluate "
                "--exclude-unreadable, in Python exclude_unreadable=True).",
                kind="too_long",
                rows=lengths,
            )
        return prompts

    def _chat(self, observation: Observation) -> Chat:
        messages: list[Message] = [
            {"role": message["role"], "content": without_tokens(message["content"], self._special)}
            for message in self.template(observation)
        ]
        return self._chat_template.chat(messages)


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    tokens = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    longest_first = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
