"""What vLLM sampled, as a completion: MARTI and OpenRLHF hand out vLLM's own objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from waltz_env.types import Completion


class Output(Protocol):
    """The fields of vLLM's ``CompletionOutput`` that count here."""

    token_ids: Sequence[int]
    logprobs: Sequence[Mapping[int, Any]] | None
    finish_reason: str | None


def completion_of(output: Output, prompt_ids: Sequence[int], *, tokenizer: Any) -> Completion:
    """The completion with its ids and, if vLLM was asked for them, log-probabilities.

    Its text comes from the ids, as trainers set vLLM up to keep special tokens in ``output.text``.
    """
    logprobs = None
    if output.logprobs is not None:
        pairs = zip(output.token_ids, output.logprobs, strict=True)
        logprobs = tuple(float(by_token[token].logprob) for token, by_token in pairs)
    return Completion(
        tokenizer.decode(output.token_ids, skip_special_tokens=True),
        finish="length" if output.finish_reason == "length" else "stop",
        prompt_ids=tuple(prompt_ids),
        token_ids=tuple(output.token_ids),
        logprobs=logprobs,
    )
