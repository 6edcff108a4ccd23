"""A language model in this process, for judges to ask."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from waltz_env.chat_template import ChatTemplate
from waltz_env.errors import DivergedError, UsageError
from waltz_env.extras import install_command
from waltz_env.types import Message, NoVerdict


class TransformersCompleter:
    """A causal LM of transformers, decoded greedily in batches of similar length.

    The checkpoint's own generation settings, such as a repetition penalty, do not apply.

    Args:
        model: a causal LM in evaluation mode, on the device where it should run.
        tokenizer: tokenizer of the model.
        name: name of the model.
        max_tokens: maximum number of tokens per answer.
        batch_size: number of texts in one call of the model.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, max_tokens: int = 128, batch_size: int = 16) -> None:
        self.name = name
        self._model = model
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._batch_size = batch_size

    def complete(self, texts: Sequence[str]) -> list[str | NoVerdict]:
        """Continues each text."""
        return self._continue([self._tokenizer(text)["input_ids"] for text in texts])

    def chat(self, conversations: Sequence[Sequence[Message]]) -> list[str | NoVerdict]:
        """Returns the next turn of each conversation.

        Raises:
            UsageError: the tokenizer has no chat template.
        """
        if self._tokenizer.chat_template is None:
            raise UsageError(f"The tokenizer of {self.name!r} has no chat template, which this judge needs.")
        template = ChatTemplate(self._tokenizer)
        chats = [template.chat(turns) for turns in conversations]
        rendered = template.render(chats, tokenize=False, add_generation_prompt=True) if chats else []
        return self._continue([self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in rendered])

    def _continue(self, prompts: Sequence[Sequence[int]]) -> list[str | NoVerdict]:
        context = getattr(self._model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
        limit = context - self._max_tokens
        answers: list[str | NoVerdict] = [
            NoVerdict(f"The judge's prompt has {len(ids):,} tokens; its model reads at most {limit:,}.")
            for ids in prompts
        ]
        fitting = sorted((i for i, ids in enumerate(prompts) if len(ids) <= limit), key=lambda i: -len(prompts[i]))
        for start in range(0, len(fitting), self._batch_size):
            batch = fitting[start : start + self._batch_size]
            for i, text in zip(batch, self._generate([prompts[i] for i in batch]), strict=True):
                answers[i] = text
        return answers

    def _generate(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        """Returns one answer per prompt. The batch is padded on the left."""
        import torch

        width = max(map(len, prompts))
        pad = next((id_ for id_ in (self._tokenizer.pad_token_id, *self._end_ids()) if id_ is not None), 0)
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts])  # (B, P)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        with torch.inference_mode(), _own_generation_config(self._model, self._end_ids()):
            output = self._model.generate(
                input_ids=ids.to(self._model.device),
                attention_mask=mask.to(self._model.device),
                max_new_tokens=self._max_tokens,
                do_sample=False,
                pad_token_id=pad,
                logits_processor=[self._checked],
            )
        return self._tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)

    def _end_ids(self) -> list[int]:
        """Ids that end an answer, by the checkpoint and by the tokenizer."""
        configured = self._model.generation_config.eos_token_id if self._model.generation_config else None
        ids = {self._tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
        return sorted(ids - {None})

    def _checked(self, ids: Any, logits: Any) -> Any:
        """The logits (B, V) of the next token, unless some answer has none that is finite."""
        if not logits.max(dim=-1).values.isfinite().all():  # the largest of a row with a NaN is NaN
            raise DivergedError(
                f"The judge model {self.name!r} computes logits that are NaN or infinite. Its weights are damaged or "
                "overflow in this dtype."
            )
        return logits


@contextmanager
def _own_generation_config(model: Any, end_ids: list[int]) -> Iterator[None]:
    """Hides the checkpoint's own generation settings: ``generate`` takes what it is not told from them.

    A repetition penalty, a minimum length or banned words would change what the model answers even when it is greedy.
    """
    from transformers import GenerationConfig

    theirs = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=end_ids or None)
    try:
        yield
    finally:
        model.generation_config = theirs


def load_completer(source: str | Path, *, max_tokens: int = 128) -> TransformersCompleter:
    """Loads a model from the hub or a folder, on the GPU if there is one, in the dtype of its weights.

    Raises:
        UsageError: torch or transformers is not installed, or no model of that name can be loaded.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ModuleNotFoundError as error:
        raise UsageError(
            f"A judge model in this process needs torch and transformers. Install them: {install_command('train')}"
        ) from error
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise UsageError(f"No judge model could be loaded from {str(source)!r}: {error}") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TransformersCompleter(model.eval().to(device), tokenizer, name=str(source), max_tokens=max_tokens)
