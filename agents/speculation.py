"""Sampling with a look ahead: likely tokens are checked many at a time, and a row ends as soon as it has said enough.

Speculative sampling as in arXiv:2302.01318, with guesses instead of a draft model, and coupled to the row's random
numbers: number t decides token t, whoever guessed it. A guess is kept as long as it equals what was drawn, so the
samples and their log-probabilities are those of ``sample``, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from waltz_env.agents.sampling import Sampled, cache_argument, diverged, draw, draw_each, read_shared_start
from waltz_env.errors import AgentError

AHEAD = 16  # most tokens that one forward pass checks per row
AT_ONCE = 128  # most tokens that it checks for all rows together: where there are many, the device has enough to do


class Follower(Protocol):
    """Follows one row while it is written."""

    def guess(self, most: int) -> Sequence[int]:
        """The tokens that probably come next, at most ``most`` of them."""
        ...

    def take(self, tokens: Sequence[int]) -> bool:
        """Takes the tokens that came next, and tells whether the row may end here."""
        ...


@torch.inference_mode()
def sample_ahead(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    followers: Sequence[Follower],
    uniforms: Tensor,
    stop_ids: Sequence[int],
    temperature: float | Tensor,
    top_p: Tensor | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Sampled]:
    """Does the same as ``sample``, with a follower for each row. Takes few rows best: it counts them in Python.

    Models whose caches cannot be read with gaps (sliding windows, states) get no guesses.

    Args:
        model: as in ``sample``.
        prompts: as in ``sample``.
        followers: one per row. A row that its follower ends has ``stopped`` False.
        uniforms: as in ``sample``.
        stop_ids: as in ``sample``.
        temperature: as in ``sample``.
        top_p: as in ``sample``.
        should_stop: as in ``sample``.

    Raises:
        AgentError: as in ``sample``.
        DivergedError: as in ``sample``.
    """
    # How to read this loop. Each forward pass reads the latest token of every running row (at first, its prompt) and
    # then its guesses, padded on the right to a common width. Draw number i is made from the logits after i guesses,
    # so it counts if these guesses all came true. The cache keeps the columns of guesses that came true in any row; the
    # mask hides them from the others, and positions are counted by the mask.
    count, limit = uniforms.shape
    device = model.device
    uniforms = uniforms.to(device)
    temperatures = torch.as_tensor(temperature, dtype=torch.float32, device=device).expand(count)
    masses = (torch.ones(count) if top_p is None else top_p).to(device)
    done = [Sampled((), (), stopped=False) for _ in prompts]
    running = list(range(count))
    cache, ids, mask = read_shared_start(model, prompts)
    cached = {cache_argument(model): cache}
    gaps = _can_have_gaps(cache)
    while running:
        if should_stop():
            raise AgentError("Sampling was stopped: nobody waits for the completions any more.")
        most = min(AHEAD, AT_ONCE // len(running)) if gaps else 0
        lengths = [len(done[row].token_ids) for row in running]
        guesses = [
            followers[row].guess(min(most, limit - length - 1)) for row, length in zip(running, lengths, strict=True)
        ]
        width = 1 + max(map(len, guesses))
        ids = torch.cat([ids, ids.new_tensor([_padded(guess, width - 1) for guess in guesses])], dim=-1)
        mask = torch.cat([mask, _first(list(map(len, guesses)), width - 1, like=mask)], dim=-1)
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :],
            logits_to_keep=width,
            use_cache=True,
            **cached,
        ).logits[:, -width:]
        rows = torch.tensor(running, device=device).repeat_interleave(width)
        places = torch.tensor(lengths, device=device).unsqueeze(-1) + torch.arange(width, device=device)
        numbers = uniforms[rows, places.clamp(max=limit - 1).flatten()]  # padding may lie beyond the limit
        if isinstance(temperature, Tensor) or top_p is not None:
            tokens, logprobs = draw_each(logits.flatten(0, 1), numbers, temperatures[rows], masses[rows])
        else:
            tokens, logprobs = draw(logits.flatten(0, 1), numbers, temperature)
        drawn = zip(tokens.view(-1, width).tolist(), logprobs.view(-1, width).tolist(), strict=True)
        going, latest, true = [], [], []
        for place, (row, guess, (said, scores)) in enumerate(zip(running, guesses, drawn, strict=True)):
            new = _confirmed(said, guess, stop_ids)
            before = done[row]
            done[row] = Sampled(
                before.token_ids + tuple(said[:new]), before.logprobs + tuple(scores[:new]), said[new - 1] in stop_ids
            )
            ended = done[row].stopped or len(done[row].token_ids) == limit
            if not ended and not followers[row].take(said[:new]):
                going.append(place)
                latest.append(said[new - 1])
                true.append(new - 1)
        if not going:
            break
        columns, asked = max(true), mask.shape[1] + 1 - width
        if columns < width - 1:
            cache.crop(columns + 1 - width)
        if len(going) < len(running):
            kept = torch.tensor(going, device=device)
            cache.batch_select_indices(kept)
            mask, running = mask[kept], [running[place] for place in going]
        mask = torch.cat([mask[:, :asked], _first(true, columns, like=mask), mask.new_ones(len(going), 1)], dim=-1)
        ids = ids.new_tensor(latest).unsqueeze(-1)
    if not all(math.isfinite(logprob) for row in done for logprob in row.logprobs):
        raise diverged(model)
    return done


def _confirmed(drawn: Sequence[int], guess: Sequence[int], stop_ids: Sequence[int]) -> int:
    """How many of the drawn tokens count: those after guesses that came true, up to a stop token."""
    pairs = enumerate(zip(drawn, guess, strict=False))  # there is one draw more than there are guesses
    return 1 + next((place for place, (token, wanted) in pairs if token != wanted or token in stop_ids), len(guess))


def _padded(guess: Sequence[int], width: int) -> list[int]:
    return [*guess, *[0] * (width - len(guess))]


def _first(counts: Sequence[int], width: int, *, like: Tensor) -> Tensor:
    """A mask (B, width) of the first ``counts[i]`` columns of each row i."""
    return like.new_tensor([[1] * count + [0] * (width - count) for count in counts])


def _can_have_gaps(cache: DynamicCache) -> bool:
    """Whether columns of the cache can be masked and cropped: whether it holds plain attention and nothing else."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)
