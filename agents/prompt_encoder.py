"""Observations to token ids, through a template and the tokenizer's own chat template, whatever the texts hold."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from waltz_env.agents.templates import Template, fold_system
from waltz_env.errors import UsageError
from waltz_env.types import Message, Observation
from waltz_env.untrusted_text import without_tokens


class PromptEncoder:
    """Encodes what an agent is conditioned on, up to where the assistant speaks.

    * Lone surrogates are replaced, and a special token of the tokenizer that stands written out in a text is broken by
      a space: no text can end its own turn.
    * What does not fit is shortened, with a warning: the longest text of the observation loses its middle. Both ends
      stay, and so does the system prompt.
    * A chat template that refuses or drops the system role gets the system prompt at the head of the first user turn.

    Args:
        tokenizer: with a chat template.
        template: from an observation to chat messages.
        max_tokens: ids at most.

    Raises:
        UsageError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Template, *, max_tokens: int) -> None:
        if tokenizer.chat_template is None:
            raise UsageError(
                "The tokenizer has no chat template. Use an instruction-tuned model, or set `tokenizer.chat_template`."
            )
        self.tokenizer = tokenizer
        self.template = template
        self.max_tokens = max_tokens
        self._special = _special_tokens(tokenizer)
        self._folds = not _takes_system(tokenizer)

    def encode(self, observations: Sequence[Observation]) -> list[list[int]]:
        """Ids for each observation, in order.

        Raises:
            UsageError: the template alone is longer than ``max_tokens``.
        """
        chats = [self._messages(observation) for observation in observations]
        prompts = self._ids(chats)
        for index, ids in enumerate(prompts):
            if len(ids) > self.max_tokens:
                warnings.warn(
                    f"A prompt of {len(ids)} tokens was shortened to {self.max_tokens}: its longest text was cut.",
                    stacklevel=2,
                )
                prompts[index] = self._shortened(observations[index], chats[index], ids)
        return prompts

    def _messages(self, observation: Observation) -> list[Message]:
        messages: list[Message] = [
            {"role": message["role"], "content": without_tokens(message["content"], self._special)}
            for message in self.template(observation)
        ]
        return fold_system(messages) if self._folds else messages

    def _ids(self, chats: Sequence[Sequence[Message]]) -> list[list[int]]:
        render: Any = self.tokenizer.apply_chat_template
        ids: list[list[int]] = render(chats, add_generation_prompt=True, return_dict=False)
        return ids

    def _shortened(self, observation: Observation, chat: list[Message], ids: list[int]) -> list[int]:
        while len(ids) > self.max_tokens:
            letters = sum(len(message["content"]) for message in chat)
            observation = shorten(observation, math.ceil((len(ids) - self.max_tokens) * letters / len(ids)))
            chat = self._messages(observation)
            (ids,) = self._ids([chat])
        return ids


def shorten(observation: Observation, letters: int) -> Observation:
    """The observation with ``letters`` characters cut from the middle of its longest text, or all that it has.

    Raises:
        UsageError: no text is left to cut.
    """
    texts = [observation["prompt"], *observation["responses"], *observation["feedback"]]
    texts += [message["content"] for message in observation["history"]]
    longest = max(texts, key=len)
    if not longest:
        raise UsageError(
            "The chat template and system prompt alone do not fit the model's context. Use a model with a longer one, "
            "a shorter template, or fewer new tokens."
        )
    kept = max(len(longest) - letters, 0)
    cut = longest[: (kept + 1) // 2] + longest[len(longest) - kept // 2 :]
    swap = {longest: cut}
    return {
        **observation,
        "prompt": swap.get(observation["prompt"], observation["prompt"]),
        "responses": tuple(swap.get(text, text) for text in observation["responses"]),
        "feedback": tuple(swap.get(text, text) for text in observation["feedback"]),
        "history": tuple(
            {"role": message["role"], "content": swap.get(message["content"], message["content"])}
            for message in observation["history"]
        ),
    }


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    tokens = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    longest_first = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    probe = [{"role": "system", "content": "PROBE"}, {"role": "user", "content": "x"}]
    try:
        return "PROBE" in tokenizer.apply_chat_template(probe, tokenize=False)
    except jinja2.TemplateError:
        return False
