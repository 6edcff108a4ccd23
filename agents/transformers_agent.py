"""An agent for any Hugging Face causal LM."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.agents.phrases import Phrases, quotes_of
from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.agents.prompt_encoder import PromptEncoder
from waltz_env.agents.sampling import Sampled, check_acting, random_stream, row_sampling, sample
from waltz_env.agents.speculation import sample_ahead
from waltz_env.agents.templates import Template
from waltz_env.checks import check_integer
from waltz_env.errors import UsageError
from waltz_env.sampling_options import SamplingOptions
from waltz_env.types import Completion, Observation, Usage


class TransformersAgent:
    """Samples batches of completions from a policy, with the exact ids and log-probabilities that a learner trains on.

    The random stream belongs to the agent: each call draws ``max_new_tokens`` numbers per row, in the order of the
    observations. The same seed and the same calls therefore give the same completions for any ``batch_size``, up to
    rounding.

    Args:
        policy: the weights, their tokenizer and the temperature.
        template: turns an observation into chat messages.
        max_new_tokens: longest completion, in tokens; one that is cut there has ``finish == "length"``.
        temperature: temperature of acting; None takes the policy's and 0 is greedy. At any other temperature than the
            policy's, completions carry no ids: they are not samples of the policy, and no learner may take them for
            such.
        seed: seeds the random stream.
        batch_size: rows generated at once; observations of similar length share a batch.
        max_prompt_tokens: longest prompt, in tokens; None allows what the model's context leaves beside
            ``max_new_tokens``.
        sampling_dtype: dtype of the weights while generating; None keeps the model's own. ``fast_dtype`` knows where
            bfloat16 is faster. The log-probabilities kept are those of the rounded weights.
        thoughts_end: what ends the private thoughts of a model that thinks before it speaks, such as ``</think>``; no
            special token, since these are not decoded. The text of a completion is what follows it, and is empty if the
            model never got that far; its ids are all that was sampled. None: everything is said aloud.

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
        thoughts_end: str | None = None,
    ) -> None:
        check_acting(max_new_tokens=max_new_tokens, temperature=temperature, max_prompt_tokens=max_prompt_tokens)
        check_integer("batch_size", batch_size, at_least=1)
        self.policy = policy
        self.template = template
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.seed = seed
        self.batch_size = batch_size
        self.sampling_dtype = sampling_dtype
        self.thoughts_end = thoughts_end
        self.encoder = PromptEncoder(
            policy.tokenizer, template, max_tokens=_prompt_limit(policy.model, max_new_tokens, max_prompt_tokens)
        )
        self._stop_ids = stop_ids(policy.model.generation_config, policy.tokenizer)
        self._generator = random_stream(seed)
        self._phrases: defaultdict[str, Phrases] = defaultdict(Phrases)

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        """One completion per observation, in order.

        Raises:
            UnreadablePromptError: the model cannot read some prompts, see ``PromptEncoder``.
            DivergedError: the policy's logits are NaN or infinite.
        """
        return self.act_with(observations, [SamplingOptions()] * len(observations))

    def act_with(
        self,
        observations: Sequence[Observation],
        options: Sequence[SamplingOptions],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[Completion]:
        """Do the same as ``act``, each completion sampled by its own options; see ``SamplingAgent``.

        A completion that ends early because it is ``complete`` has that text and no ids: it is not a whole action, and
        no learner may take it for one.

        Raises:
            UnreadablePromptError: as in ``act``.
            DivergedError: as in ``act``.
            AgentError: ``should_stop``, which is asked before each token, returned True.
        """
        if not observations:
            return []
        prompts = self.encoder.encode(observations)
        own = self.policy.temperature if self.temperature is None else self.temperature
        sampling = [row_sampling(wanted, temperature=own, limit=self.max_new_tokens) for wanted in options]
        longest = max(each.limit for each in sampling)
        uniforms = torch.rand(len(prompts), longest, dtype=torch.float64, generator=self._generator)
        for row, each in enumerate(sampling):
            if each.seed is not None:
                stream = random_stream(each.seed)
                uniforms[row] = torch.rand(self.max_new_tokens, dtype=torch.float64, generator=stream)[:longest]
        # One temperature for all is the learner's case, and needs no sorting.
        alike = all((each.temperature, each.top_p) == (own, 1.0) for each in sampling)
        temperatures = torch.tensor([each.temperature for each in sampling])
        top_p = torch.tensor([each.top_p for each in sampling])
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        completions: dict[int, Completion] = {}
        with self.policy.sampling_model(self.sampling_dtype) as model:
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                writings = [
                    _Writing(
                        self.policy,
                        complete=options[row].complete,
                        phrases=self._phrases[options[row].series] if options[row].series else None,
                        prompt=prompts[row],
                        limit=sampling[row].limit,
                        on_text=options[row].on_text,
                        thoughts_end=self.thoughts_end,
                    )
                    for row in rows
                ]
                watched = any(options[row].complete or options[row].series or options[row].on_text for row in rows)
                sampler = partial(sample_ahead, followers=writings) if watched else sample
                sampled = sampler(
                    model,
                    [prompts[row] for row in rows],
                    uniforms=uniforms[rows],
                    stop_ids=self._stop_ids,
                    temperature=own if alike else temperatures[rows],
                    top_p=None if alike else top_p[rows],
                    should_stop=should_stop,
                )
                for row, writing, result in zip(rows, writings, sampled, strict=True):
                    if options[row].series:
                        self._phrases[options[row].series].add(result.token_ids)
                    completions[row] = as_completion(
                        self.policy.tokenizer,
                        prompts[row],
                        _within(result, sampling[row].limit),
                        keep_ids=sampling[row].on_policy(self.policy.temperature),
                        version=self.policy.version,
                        thoughts_end=self.thoughts_end,
                    )
                    if writing.whole is not None:
                        completions[row] = replace(
                            completions[row],
                            text=writing.whole,
                            finish="stop",
                            prompt_ids=None,
                            token_ids=None,
                            logprobs=None,
                        )
        return [completions[row] for row in range(len(prompts))]

    def freeze(self) -> None:
        """Makes the policy's weights constants, so that turns begin at once: see ``LanguageModelPolicy.freeze``."""
        self.policy.freeze(self.sampling_dtype)

    def check_readable(self, observations: Sequence[Observation]) -> None:
        """Checks that the model can read every observation, without acting.

        Raises:
            UnreadablePromptError: it cannot read some of them.
        """
        if observations:
            self.encoder.encode(observations)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the random stream, uint8."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state returned by ``state_dict``."""
        self._generator.set_state(state["generator"].cpu())


class _Writing:
    """One completion while it is written: what it has said so far, and whether that is enough.

    Attributes:
        whole: the whole text, if it was known before its end.
    """

    def __init__(
        self,
        policy: LanguageModelPolicy,
        *,
        complete: Callable[[str], str | None] | None,
        phrases: Phrases | None,
        prompt: Sequence[int],
        limit: int,
        on_text: Callable[[str], None] | None = None,
        thoughts_end: str | None = None,
    ) -> None:
        self.whole: str | None = None
        self._policy = policy
        self._complete = complete
        self._phrases = phrases
        self._quotes = quotes_of(prompt) if phrases is not None else {}
        self._limit = limit
        self._on_text = on_text
        self._thoughts_end = thoughts_end
        self._tokens: list[int] = []

    def guess(self, most: int) -> Sequence[int]:
        return self._phrases.guess(self._tokens, most, quotes=self._quotes) if self._phrases is not None else ()

    def take(self, tokens: Sequence[int]) -> bool:
        self._tokens += tokens
        if len(self._tokens) <= self._limit:
            self._tell()
        return self.whole is not None or len(self._tokens) >= self._limit

    def _tell(self) -> None:
        if self._complete is not None:
            self.whole = self._complete(_text(self._policy.tokenizer, self._tokens))
        if self._on_text is not None and self.whole is None:
            # A character of several tokens reads as U+FFFD until its last one.
            written = _text(self._policy.tokenizer, self._tokens).rstrip("\ufffd")
            self._on_text(_aloud(written, self._thoughts_end))


def _within(sampled: Sampled, limit: int) -> Sampled:
    """What was sampled for one prompt, up to its own limit."""
    if len(sampled.token_ids) <= limit:
        return sampled
    return Sampled(sampled.token_ids[:limit], sampled.logprobs[:limit], stopped=False)


def as_completion(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    sampled: Sampled,
    *,
    keep_ids: bool,
    version: int,
    thoughts_end: str | None = None,
) -> Completion:
    """Turns sampled ids into the action of an agent.

    Args:
        tokenizer: decodes the ids.
        prompt: ids that the policy was conditioned on.
        sampled: the sampled ids and their log-probabilities.
        keep_ids: whether the ids are a sample of the policy's own distribution, so that a learner may have them.
        version: version of the weights that were sampled from.
        thoughts_end: what ends private thoughts, which are left out of the text.
    """
    text = _aloud(_text(tokenizer, sampled.token_ids[:-1] if sampled.stopped else sampled.token_ids), thoughts_end)
    return Completion(
        text=text,
        finish="stop" if sampled.stopped else "length",
        usage=Usage(len(prompt), len(sampled.token_ids)),
        prompt_ids=tuple(prompt) if keep_ids else None,
        token_ids=sampled.token_ids if keep_ids else None,
        logprobs=sampled.logprobs if keep_ids else None,
        version=version,
    )


def _aloud(text: str, thoughts_end: str | None) -> str:
    """What is said aloud, after the private thoughts."""
    return text if thoughts_end is None else text.partition(thoughts_end)[2].strip()


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def stop_ids(config: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end an assistant turn: the model's, the tokenizer's, and what the chat template puts after a turn.

    Raises:
        UsageError: nothing ends a turn.
    """
    configured = config.eos_token_id if config else None
    ids = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    ids.add(end_of_turn(tokenizer))
    if not ids - {None}:
        raise UsageError("Nothing ends a turn: set `eos_token` on the tokenizer or `generation_config.eos_token_id`.")
    return sorted(ids - {None})


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template puts after an assistant turn, or else the tokenizer's end token."""
    chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "PROBE"}]
    _, _, after = str(tokenizer.apply_chat_template(chat, tokenize=False)).rpartition("PROBE")
    first = tokenizer.encode(after, add_special_tokens=False)[:1]
    special = [index for index, token in tokenizer.added_tokens_decoder.items() if token.special and index in first]
    return special[0] if special else tokenizer.eos_token_id


def _prompt_limit(model: PreTrainedModel, max_new_tokens: int, max_prompt_tokens: int | None) -> int:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", sys.maxsize)
    limit = min(context - max_new_tokens, max_prompt_tokens or sys.maxsize)
    if limit < 1:
        raise UsageError(f"max_new_tokens={max_new_tokens} leaves no room for a prompt in a context of {context}.")
    return limit
