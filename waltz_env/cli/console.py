"""What commands print to."""

from __future__ import annotations

from rich.console import Console


def console() -> Console:
    """A console that prints texts as they are, whatever a prompt, a path or a data set looks like.

    Rich would otherwise replace emoji codes, such as the ``:train:`` in ``hub:owner/name:train:``.
    """
    return Console(emoji=False, markup=False, highlight=False)
