"""Ancestral sampling from a causal LM, with the exact ids and log-probabilities that a learner needs.

A plain loop around the model's forward pass. Unlike ``generate`` of transformers it draws from a random stream of its
own, keeps every log-probability, drops rows that have ended, and reads the common beginning of all prompts only once.
Top-p is for serving alone, and top-k is absent: policy-gradient samples must come from the full distribution.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from waltz_env.checks import check_integer, check_number
from waltz_env.errors import AgentError, DivergedError, UsageError
from waltz_env.plain import plain_int
from waltz_env.sampling_options import SamplingOptions

CACHE_ARGUMENTS = ("past_key_values", "cache")  # the second for models of transformers 5.24 and later
COMPACT_BELOW = 0.75  # drop ended rows once fewer than this share still run: dropping them copies the attention cache
GREEDY_BELOW = 1e-6  # temperatures at which logits overflow, and nothing but the likeliest token has any mass
SHARE_FROM = 16  # shortest common beginning of all prompts that is worth a forward pass of its own


class Sampled(NamedTuple):
    """One sampled completion: its ids, their log-probabilities in nats, and whether a stop token ended it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool


class RowSampling(NamedTuple):
    """How one completion is sampled: the wishes for it where there are any, and otherwise the agent's settings.

    Attributes:
        temperature: sampling temperature; 0 is greedy.
        top_p: probability mass of the smallest set of tokens to sample from.
        limit: largest number of tokens.
        seed: seed of the row's own random stream; None leaves it to the agent.
    """

    temperature: float
    top_p: float
    limit: int
    seed: int | None

    def on_policy(self, temperature: float) -> bool:
        """Whether the completion is a sample of a policy of that temperature."""
        return (self.temperature, self.top_p) == (temperature, 1.0)


def row_sampling(options: SamplingOptions, *, temperature: float, limit: int) -> RowSampling:
    """The sampling of one row, for an agent that acts at ``temperature`` and writes at most ``limit`` tokens."""
    wanted = temperature if options.temperature is None else options.temperature
    return RowSampling(
        wanted if wanted >= GREEDY_BELOW else 0.0,
        options.top_p or 1.0,
        min(options.max_tokens or limit, limit),
        options.seed,
    )


def check_acting(*, max_new_tokens: int, temperature: float | None, max_prompt_tokens: int | None) -> None:
    """Check the settings of an agent on a model in this process.

    Raises:
        UsageTypeError: a value is of the wrong type.
        UsageError: a value is out of range.
    """
    check_integer("max_new_tokens", max_new_tokens, at_least=1)
    if temperature is not None:
        check_number("temperature", temperature, low=0)
    if max_prompt_tokens is not None:
        check_integer("max_prompt_tokens", max_prompt_tokens, at_least=1)


def random_stream(seed: int) -> torch.Generator:
    """A random stream on the CPU.

    Raises:
        UsageTypeError: the seed is not an integer.
        UsageError: it has more than 64 bits.
    """
    number = plain_int("seed", seed)
    if not -(2**63) <= number < 2**64:
        raise UsageError(f"seed must have at most 64 bits; got {number}.")
    return torch.Generator().manual_seed(number)


def cache_argument(model: PreTrainedModel) -> str:
    """The name of the cache argument of the model's ``forward``; the usual name if it has none."""
    return _cache_argument(type(model).forward)


@functools.cache
def _cache_argument(forward: Callable[..., object]) -> str:
    parameters = inspect.signature(forward).parameters
    return next((name for name in CACHE_ARGUMENTS if name in parameters), CACHE_ARGUMENTS[0])


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    uniforms: Tensor,
    stop_ids: Sequence[int],
    temperature: float | Tensor,
    top_p: Tensor | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Sampled]:
    """Continues each prompt until a stop token or the limit, in one batch.

    Every row has its own uniform numbers, so that only rounding can make its text depend on the other rows.

    Args:
        model: a causal LM in evaluation mode.
        prompts: ids per row, of any length from 1.
        uniforms: numbers in [0, 1), shape (B, T), float64; T is the largest number of tokens to sample.
        stop_ids: ids that end a row; the stop token itself is kept.
        temperature: log-probabilities are those of ``logits / temperature``; 0 takes the most likely token and gives
            the log-probabilities of temperature 1. One for all rows, or one per row, shape (B,).
        top_p: probability mass of the smallest set of tokens to sample from, in (0, 1], shape (B,); None: all tokens.
            Log-probabilities remain those of the full distribution. Not for learning.
        should_stop: asked before each token; once it returns True, sampling ends.

    Raises:
        AgentError: ``should_stop`` ended the sampling.
        DivergedError: the model's logits are NaN or infinite.
    """
    # How to read this loop. Results are stored under a row's number among `prompts`. Rows that have ended leave the
    # running batch, so `rows[i]` is the number under which row i of the running batch is stored. A row that has ended
    # but has not left yet goes on sampling; its further tokens lie beyond `lengths` and are ignored. The first forward
    # pass reads whole prompts (B, L), every later one a single token per row (B, 1).
    count, limit = uniforms.shape
    uniforms = uniforms.to(model.device)
    temperatures = torch.as_tensor(temperature, dtype=torch.float32, device=model.device).expand(count)
    masses = (torch.ones(count) if top_p is None else top_p).to(model.device)
    stops = torch.tensor(stop_ids, device=model.device)
    all_tokens = torch.zeros(count, limit, dtype=torch.int64, device=model.device)
    all_logprobs = torch.zeros(count, limit, device=model.device)
    lengths = torch.full((count,), limit, device=model.device)
    stopped = torch.zeros(count, dtype=torch.bool, device=model.device)
    rows = torch.arange(count, device=model.device)
    cache, ids, mask = read_shared_start(model, prompts)
    cached = {cache_argument(model): cache}
    for step in range(limit):
        if should_stop():
            raise AgentError("Sampling was stopped: nobody waits for the completions any more.")
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :],
            logits_to_keep=1,
            use_cache=True,
            **cached,
        ).logits[:, -1]
        if isinstance(temperature, Tensor) or top_p is not None:
            tokens, logprobs = draw_each(logits, uniforms[rows, step], temperatures[rows], masses[rows])
        else:
            tokens, logprobs = draw(logits, uniforms[rows, step], temperature)
        all_tokens[rows, step] = tokens
        all_logprobs[rows, step] = logprobs
        ending = rows[torch.isin(tokens, stops) & ~stopped[rows]]
        lengths[ending] = step + 1
        stopped[ending] = True
        running = int((~stopped[rows]).sum())
        if running == 0:
            break
        if running < COMPACT_BELOW * len(rows):
            kept = (~stopped[rows]).nonzero().squeeze(-1)
            cache.batch_select_indices(kept)
            rows, tokens, mask = rows[kept], tokens[kept], mask[kept]
        ids = tokens.unsqueeze(-1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=-1)
    if not torch.isfinite(all_logprobs).all():
        raise diverged(model)
    return [
        Sampled(tuple(row_tokens[:length]), tuple(row_logprobs[:length]), ended)
        for row_tokens, row_logprobs, length, ended in zip(
            all_tokens.tolist(), all_logprobs.tolist(), lengths.tolist(), stopped.tolist(), strict=True
        )
    ]


def diverged(model: PreTrainedModel) -> DivergedError:
    """The error for a model whose logits are NaN or infinite."""
    name = f" ({model.name_or_path})" if model.name_or_path else ""
    return DivergedError(
        f"{type(model).__name__}{name} computes logits that are NaN or infinite, so it cannot be sampled from. Its "
        "weights have diverged or overflow in this dtype. Use an earlier checkpoint, or float32 or bfloat16."
    )


def draw(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """One token per row from logits (B, V), by inverting the cumulative distribution, with its log-probability.

    Logits that are NaN or infinite give a log-probability that is not finite.
    """
    distribution = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    if temperature == 0:
        tokens = distribution.argmax(-1)
    else:
        cumulative = distribution.exp().cumsum(-1, dtype=torch.float64)
        thresholds = uniforms.unsqueeze(-1) * cumulative[:, -1:]  # the sum is 1 only up to rounding
        tokens = torch.searchsorted(cumulative, thresholds, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
    return tokens, distribution.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def draw_each(logits: Tensor, uniforms: Tensor, temperatures: Tensor, masses: Tensor) -> tuple[Tensor, Tensor]:
    """``draw`` with a temperature and a top-p mass per row, each of shape (B,)."""
    greedy = temperatures == 0
    distribution = torch.log_softmax(logits.float() / temperatures.masked_fill(greedy, 1.0).unsqueeze(-1), dim=-1)
    # Likeliest token first: then what lies above the mass is the end of the row, and greedy is the first token.
    ordered, tokens = distribution.sort(dim=-1, descending=True)
    cumulative = ordered.exp().cumsum(-1, dtype=torch.float64)
    kept = torch.searchsorted(cumulative, masses.double().unsqueeze(-1) * cumulative[:, -1:])
    bounds = cumulative.gather(-1, kept.clamp(max=logits.shape[-1] - 1))
    places = torch.searchsorted(cumulative, uniforms.unsqueeze(-1) * bounds, right=True)
    places = torch.minimum(places, kept).masked_fill(greedy.unsqueeze(-1), 0)
    chosen = tokens.gather(-1, places.clamp(max=logits.shape[-1] - 1))
    return chosen.squeeze(-1), distribution.gather(-1, chosen).squeeze(-1)


def read_shared_start(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> tuple[DynamicCache, Tensor, Tensor]:
    """A cache of the prompts' common beginning (S ids), the rest padded on the left (B, L), and a mask (B, S + L).

    The padding lies between the common beginning and the rest; the mask and explicit positions hide it. In models with
    a sliding window it would count as distance, so nothing is shared there.
    """
    cache = DynamicCache(config=model.config)
    shared = _shared_length(prompts) if len(prompts) > 1 else 0
    if shared < SHARE_FROM or getattr(model.config, "sliding_window", None) is not None:
        shared = 0
    else:
        start = torch.tensor([prompts[0][:shared]], device=model.device)
        model(input_ids=start, logits_to_keep=1, use_cache=True, **{cache_argument(model): cache})
        cache.batch_repeat_interleave(len(prompts))
    length = max(len(prompt) for prompt in prompts) - shared
    padding = [length - len(prompt) + shared for prompt in prompts]
    ids = [[0] * pad + list(prompt[shared:]) for prompt, pad in zip(prompts, padding, strict=True)]
    mask = [[1] * shared + [0] * pad + [1] * (length - pad) for pad in padding]
    return cache, torch.tensor(ids, device=model.device), torch.tensor(mask, device=model.device)


def _shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the prompts' common beginning; at least one id of each prompt is left over."""
    shortest = min(len(prompt) for prompt in prompts) - 1
    columns = zip(*(prompt[:shortest] for prompt in prompts), strict=True)
    return next((index for index, column in enumerate(columns) if len(set(column)) > 1), shortest)
