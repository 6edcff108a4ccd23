"""A walk through a prompt set, epoch after epoch, that stops and goes on exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from waltz_env.errors import CheckpointError, UsageError
from waltz_env.prompts.prompt_set import PromptSet, rng
from waltz_env.types import Prompt


class PromptCursor:
    """Draws batches from a set: each epoch gives every prompt once, in an order fixed by (seed, epoch).

    A batch may reach over the end of an epoch, and be larger than the set. All that moves is ``drawn``.

        cursor = PromptCursor(PromptSet.load("builtin:train"), seed=0)
        batch = cursor.next(32)
        saved = cursor.state_dict()

    Args:
        prompts: what to walk through.
        seed: of the order, 0 or more.

    Attributes:
        drawn: how many prompts were given out since the start.

    Raises:
        UsageError: the set is empty, or the seed negative.
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
        """How many times the whole set was given out."""
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
        """Where the cursor stands: a small dict that JSON can hold."""
        return {"seed": self.seed, "drawn": self.drawn, "fingerprint": self._fingerprint}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where the cursor stood that gave ``state``, whatever seed this one was made with.

        Raises:
            CheckpointError: the state is incomplete, or of another set; the cursor stays where it is.
        """
        seed, drawn, fingerprint = (state.get(key) for key in ("seed", "drawn", "fingerprint"))
        if not (type(seed) is int and type(drawn) is int and min(seed, drawn) >= 0):
            raise CheckpointError(
                f"The state of a prompt cursor holds 'seed' and 'drawn', whole numbers of 0 or more; got {dict(state)}."
            )
        if fingerprint != self._fingerprint:
            raise CheckpointError(
                f"The saved cursor walked another prompt set: its fingerprint is {fingerprint!r}, that of "
                f"{self.prompts!r} is {self._fingerprint!r}. Resume with the same prompts, in the same order."
            )
        self.seed, self.drawn = seed, drawn
        self._order = self._shuffled(self.epoch)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return rng(self.seed, epoch).permutation(len(self.prompts))
