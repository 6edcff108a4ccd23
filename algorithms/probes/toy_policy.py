"""The smallest policy in which a learner's mistakes show: for the probe games, the conformance checks and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ToyPolicy:
    """A bigram model with a little memory; implements ``FeaturePolicy``.

    The logits after a token are its row of ``table`` plus the mean, over all tokens up to it, of their rows of
    ``context``: a wrong mask, position or shift gives other logits. Features are the one-hot token and the mean of all
    tokens up to it, so a critic can know all that the policy knows.

    Args:
        table: initial logits after each token, (V, V) float32.
        reference: the reference's logits after each token, (V, V) float32; those of ``table`` by default.
        temperature: temperature at which the policy samples and learns.
    """

    def __init__(self, table: Tensor, *, reference: Tensor | None = None, temperature: float = 1.0) -> None:
        self.table = nn.Parameter(table.clone())
        self.context = nn.Parameter(torch.zeros_like(table))
        self.temperature = temperature
        self.version = 0
        self.device = torch.device("cpu")
        self._reference = (table if reference is None else reference).clone()

    @property
    def feature_size(self) -> int:
        return 2 * len(self._reference)

    def parameters(self) -> list[nn.Parameter]:
        return [self.table, self.context]

    def logits(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, keep: int, *, reference: bool = False
    ) -> Tensor:
        if reference:
            return self._reference[input_ids[:, -keep:]]
        memory = _mean_so_far(self.context[input_ids], attention_mask, position_ids)
        return (self.table[input_ids] + memory)[:, -keep:]

    def features(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, keep: int) -> Tensor:
        tokens = F.one_hot(input_ids, len(self._reference)).float()
        return torch.cat([tokens, _mean_so_far(tokens, attention_mask, position_ids)], dim=-1)[:, -keep:]

    def state_dict(self) -> dict[str, Tensor]:
        return {"table": self.table.detach(), "context": self.context.detach()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.table.copy_(state["table"])
            self.context.copy_(state["context"])

    @torch.no_grad()
    def logprobs(self, prompt: Sequence[int], tokens: Sequence[int]) -> tuple[float, ...]:
        """Log-probability of each of ``tokens`` after ``prompt``, without padding or batch."""
        logits = self._next(torch.tensor([[*prompt, *tokens]]), keep=len(tokens) + 1)[0, :-1]
        return tuple(logits.log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None]).squeeze(-1).tolist())

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Sequence[int]], length: int, *, generator: torch.Generator
    ) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        """``length`` tokens after each prompt, with their log-probabilities; all prompts have the same length."""
        ids = torch.tensor(prompts)
        chosen = []
        for _ in range(length):
            logprobs = self._next(ids, keep=1)[:, 0].log_softmax(-1)
            token = torch.multinomial(logprobs.exp(), 1, generator=generator)
            chosen.append(logprobs.gather(1, token))
            ids = torch.cat([ids, token], dim=1)
        tokens, values = ids[:, -length:].tolist(), torch.cat(chosen, dim=1).tolist()
        return [(tuple(row), tuple(numbers)) for row, numbers in zip(tokens, values, strict=True)]

    def _next(self, ids: Tensor, keep: int) -> Tensor:
        positions = torch.arange(ids.shape[1]).expand_as(ids)
        return self.logits(ids, torch.ones_like(ids), positions, keep) / self.temperature


def _mean_so_far(rows: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
    """Mean of (B, L, D) over the attended tokens up to each position."""
    return (rows * attention_mask.unsqueeze(-1)).cumsum(1) / (position_ids + 1).unsqueeze(-1)
