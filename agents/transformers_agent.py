"""An agent for any Hugging Face causal LM."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.agents.prompt_encoder import PromptEncoder
from waltz_env.agents.sampling import Sampled, sample
from waltz_env.agents.templates import Template
from waltz_env.errors import UsageError
from waltz_env.types import Completion, Observation


class TransformersAgent:
    """Samples from a policy, batched, with the exact ids and log-probabilities that a learner trains on.

    The random stream belongs to the agent: each call draws ``max_new_tokens`` numbers a row, in the order of the
    observations. The same seed and calls therefore give the same completions, whatever ``batch_size`` is (up to
    rounding). Texts of any kind and length are made to fit, see ``PromptEncoder``; training rows hold the ids that were
    really used. An idle agent, ``active == 0``, says nothing.

    Args:
        policy: the weights, their tokenizer and the temperature.
        template: from an observation to chat messages.
        max_new_tokens: a completion ends there at the latest, with ``finish == "length"``.
        temperature: of acting; None: the policy's. At any other, completions carry no ids: they are not samples of the
            policy, and nothing may be learned from them as if they were. 0 is greedy.
        seed: of the random stream.
        batch_size: rows generated at once; observations of like length share a batch.
        max_prompt_tokens: None: what the model's context leaves beside ``max_new_tokens``.
        sampling_dtype: dtype of the weights while generating; None: the model's own. ``fast_dtype`` knows where
            bfloat16 pays. The log-probabilities kept are those of the rounded weights.

    Raises:
        UsageError: the tokenizer has no chat template, nothing ends a turn, or the limits leave no room for a prompt.
    """

    def __init__(
        self,
        policy: LanguageModelPolicy,
        template: Template,
        *,
        max_new_tokens: int,
        temperature: float | None = None,
        seed: int = 0,
        batch_size: int = 64,
        max_prompt_tokens: int | None = None,
        sampling_dtype: torch.dtype | None = None,
    ) -> None:
        if max_new_tokens < 1 or batch_size < 1:
            raise UsageError(f"max_new_tokens and batch_size must be 1 or more; got {max_new_tokens} and {batch_size}.")
        self.policy = policy
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.batch_size = batch_size
        self.sampling_dtype = sampling_dtype
        self._encoder = PromptEncoder(
            policy.tokenizer, template, max_tokens=_prompt_limit(policy.model, max_new_tokens, max_prompt_tokens)
        )
        self._stop_ids = stop_ids(policy.model, policy.tokenizer)
        self._generator = torch.Generator().manual_seed(seed)

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        """One completion for each observation, in order."""
        completions = [Completion("", version=self.policy.version)] * len(observations)
        active = [index for index, observation in enumerate(observations) if observation["active"]]
        if not active:
            return completions
        prompts = self._encoder.encode([observations[index] for index in active])
        uniforms = torch.rand(len(prompts), self.max_new_tokens, dtype=torch.float64, generator=self._generator)
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        on_policy = self.temperature in (None, self.policy.temperature)
        with self.policy.sampling_model(self.sampling_dtype) as model:
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                sampled = sample(
                    model,
                    [prompts[row] for row in rows],
                    uniforms=uniforms[rows],
                    stop_ids=self._stop_ids,
                    temperature=self.policy.temperature if self.temperature is None else self.temperature,
                )
                for row, one in zip(rows, sampled, strict=True):
                    completions[active[row]] = as_completion(
                        self.policy, prompts[row], one, keep_ids=on_policy, version=self.policy.version
                    )
        return completions

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the random stream, uint8."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from where ``state_dict`` was taken."""
        self._generator.set_state(state["generator"].cpu())


def as_completion(
    policy: LanguageModelPolicy, prompt: Sequence[int], sampled: Sampled, *, keep_ids: bool, version: int
) -> Completion:
    """The action that was sampled from ``policy``.

    Args:
        policy: gives the tokenizer.
        prompt: ids that were sampled from.
        sampled: what came.
        keep_ids: whether it is a sample of the policy's own distribution, which a learner may have.
        version: of the weights that sampled it.
    """
    said = list(sampled.token_ids[:-1] if sampled.stopped else sampled.token_ids)
    return Completion(
        text=str(policy.tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)),
        finish="stop" if sampled.stopped else "length",
        prompt_ids=tuple(prompt) if keep_ids else None,
        token_ids=sampled.token_ids if keep_ids else None,
        logprobs=sampled.logprobs if keep_ids else None,
        version=version,
    )


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end an assistant turn: the model's, the tokenizer's, and what the chat template puts after a turn.

    Raises:
        UsageError: there is none.
    """
    configured = model.generation_config.eos_token_id if model.generation_config else None
    found = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "PROBE"}]
    _, _, after = str(tokenizer.apply_chat_template(chat, tokenize=False)).rpartition("PROBE")
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    found |= special.intersection(tokenizer.encode(after, add_special_tokens=False)[:1])
    if not found - {None}:
        raise UsageError("Nothing ends a turn: set `eos_token` on the tokenizer or `generation_config.eos_token_id`.")
    return sorted(found - {None})


def _prompt_limit(model: PreTrainedModel, max_new_tokens: int, max_prompt_tokens: int | None) -> int:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", sys.maxsize)
    limit = min(context - max_new_tokens, max_prompt_tokens or sys.maxsize)
    if limit < 1:
        raise UsageError(f"max_new_tokens={max_new_tokens} leaves no room for a prompt in a context of {context}.")
    return limit
