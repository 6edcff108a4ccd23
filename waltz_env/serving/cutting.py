"""Where a text ends, and how many tokens it has, if the agent that wrote it does not say."""

from __future__ import annotations

import re
from dataclasses import replace

from waltz_env.sampling_options import SamplingOptions
from waltz_env.types import Completion, Observation, Usage

_WORD = re.compile(r"\w+|[^\w\s]")
"""Words and punctuation marks: an estimate of tokens, for agents that have none."""


def cut(completion: Completion, options: SamplingOptions, *, count: bool) -> Completion:
    """End the completion before its first stop string and, if ``count``, after ``max_tokens`` words.

    A completion that is cut keeps its number of tokens, but no ids: they would belong to another text.

    >>> cut(Completion("One. Two. Three."), SamplingOptions(stop=("Three", "Two")), count=False).text
    'One. '
    >>> cut(Completion("One. Two. Three."), SamplingOptions(max_tokens=3), count=True)
    Completion(text='One. Two', finish='length', prompt_ids=None, token_ids=None, logprobs=None, version=0, usage=None)
    """
    text, finish = completion.text, completion.finish
    stops = [position for string in options.stop if (position := text.find(string)) >= 0]
    if stops:
        text, finish = text[: min(stops)], "stop"
    words = list(_WORD.finditer(text))
    if count and options.max_tokens is not None and len(words) > options.max_tokens:
        text, finish = text[: words[options.max_tokens - 1].end()], "length"
    if text == completion.text:
        return completion
    return replace(
        completion,
        text=text,
        finish=finish,
        prompt_ids=None,
        token_ids=None,
        logprobs=None,
        usage=completion.tokens,
    )


def estimate(observation: Observation, completion: Completion) -> Usage:
    """Count words and punctuation marks in place of tokens."""
    said = [message["content"] for message in observation["history"]]
    said += [observation["prompt"], *observation["responses"], *observation["feedback"]]
    return Usage(sum(map(_count, said)), _count(completion.text))


def _count(text: str) -> int:
    return sum(1 for _ in _WORD.finditer(text))
