"""The smallest policy there is: next-token logits are a row of a table, looked up by the latest token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from waltz_env.algorithms.protocols import Sample


class BigramPolicy:
    """Implements ``Policy``. ``table[i]`` are the logits after token i, (V, V); the reference is a table of its own."""

    def __init__(self, table: Tensor, reference: Tensor | None = None, *, temperature: float = 1.0) -> None:
        self.table = nn.Parameter(table.clone())
        self.reference = (table if reference is None else reference).clone()
        self.temperature = temperature
        self.version = 0
        self.device = torch.device("cpu")

    def parameters(self) -> list[nn.Parameter]:
        return [self.table]

    def logits(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, keep: int, *, reference: bool = False
    ) -> Tensor:
        table = self.reference if reference else self.table
        return table[input_ids[:, -keep:]]

    def state_dict(self) -> dict[str, Tensor]:
        return {"table": self.table.detach()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.table.copy_(state["table"])

    def logprobs(self, prompt: Sequence[int], tokens: Sequence[int]) -> tuple[float, ...]:
        """Log-probability of each token, computed without the library."""
        before = [prompt[-1], *tokens[:-1]]
        table = (self.table.detach() / self.temperature).log_softmax(-1)
        return tuple(table[previous, token].item() for previous, token in zip(before, tokens, strict=True))

    def sample(self, prompt: Sequence[int], length: int, generator: torch.Generator) -> tuple[int, ...]:
        """``length`` tokens after ``prompt``."""
        tokens = [prompt[-1]]
        for _ in range(length):
            probabilities = (self.table.detach()[tokens[-1]] / self.temperature).softmax(-1)
            tokens.append(int(torch.multinomial(probabilities, 1, generator=generator)))
        return tuple(tokens[1:])

    def sample_rows(
        self, prompts: Sequence[int], length: int, generator: torch.Generator
    ) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        """``length`` tokens after each prompt of one token, with their log-probabilities; all prompts at once."""
        table = (self.table.detach() / self.temperature).log_softmax(-1)
        tokens = [torch.tensor(prompts)]
        for _ in range(length):
            tokens.append(torch.multinomial(table[tokens[-1]].exp(), 1, generator=generator).squeeze(1))
        logprobs = [table[before, after] for before, after in pairwise(tokens)]
        columns = torch.stack(tokens[1:], dim=1).tolist(), torch.stack(logprobs, dim=1).tolist()
        return [(tuple(ids), tuple(values)) for ids, values in zip(*columns, strict=True)]

    def row(self, prompt: Sequence[int], tokens: Sequence[int], reward: float, group: str = "") -> Sample:
        """A training row that this policy sampled just now."""
        return Sample(tuple(prompt), tuple(tokens), self.logprobs(prompt, tokens), reward, group, self.version)


def random_table(size: int, seed: int = 0) -> Tensor:
    """Logits (V, V) float32, standard normal."""
    return torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
