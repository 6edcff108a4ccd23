"""A walk through a prompt set, epoch after epoch, that can stop and resume exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from waltz_env.errors import CheckpointError, UsageError
from waltz_env.prompts.prompt_set import PromptSet, rng
from waltz_env.types import Prompt


class PromptCursor:
    """Draws batches from a set: each epoch gives every prompt once, in an order that depends on (seed, epoch) alone.

    A batch may cross the end of an epoch and may be larger than the set. The only state is ``drawn``.

        cursor = PromptCursor(PromptSet.load("builtin:train"), seed=0)
        batch = cursor.next(32)
        saved = cursor.state_dict()

    Args:
        prompts: prompts to draw from.
        seed: seeds the order; 0 or more.

    Attributes:
        drawn: number of prompts drawn since the start.

    Raises:
        UsageError: the set is empty, or the seed is negative.
    """

    def __init__(self, prompts: PromptSet, seed: int = 0) -> None:
        if not prompts:
            raise UsageError(f"A cursor needs at least one prompt; {prompts!r} has none.")
        self.prompts = prompts
        self.seed = seed
        self.drawn = 0
        self._fingerprint = prompts.fingerprint()
        self._order = self._shuffled(epoch=0)

    @property
    def epoch(self) -> int:
        """Number of complete walks through the set."""
        return self.drawn // len(self.prompts)

    def next(self, n: int) -> list[Prompt]:
        """The next ``n`` prompts.

        Raises:
            UsageError: n is negative.
        """
        if n < 0:
            raise UsageError(f"The number of prompts to draw must be 0 or more; got {n}.")
        batch = []
        for _ in range(n):
            epoch, position = divmod(self.drawn, len(self.prompts))
            if position == 0:
                self._order = self._shuffled(epoch)
            batch.append(self.prompts[int(self._order[position])])
            self.drawn += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position of the cursor, as a small dict that JSON can hold."""
        return {"seed": self.seed, "drawn": self.drawn, "fingerprint": self._fingerprint}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a position returned by ``state_dict``, whatever seed this cursor was made with.

        Raises:
            CheckpointError: the state is incomplete or belongs to another set; the cursor then stays where it is.
        """
        seed, drawn, fingerprint = (state.get(key) for key in ("seed", "drawn", "fingerprint"))
        if not (type(seed) is int and type(drawn) is int and min(seed, drawn) >= 0):
            raise CheckpointError(
                f"The state of a prompt cursor has integers 'seed' and 'drawn' of 0 or more; got {dict(state)}."
            )
        if fingerprint != self._fingerprint:
            raise CheckpointError(
                f"The saved cursor belongs to another prompt set, with the fingerprint {fingerprint!r}; that of "
                f"{self.prompts!r} is {self._fingerprint!r}. Resume with the same prompts in the same order."
            )
        self.seed, self.drawn = seed, drawn
        self._order = self._shuffled(self.epoch)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return rng(self.seed, epoch).permutation(len(self.prompts))
