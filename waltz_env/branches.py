"""Trees of games: one prompt, n drafts of it, k critiques of each draft, m revisions after each critique.

A game branches in its first round. Every way through the tree, from the draft to the end, is one game, and each tree
has n k m of them: a game that ends before it would have branched stands there as many times as it would have. Rates
over the games of a tree are therefore what they would be over games that were played one by one.

``Trajectory.branch`` tells which turns several games share: ``(draft, critique, revision)``, three numbers from 0. The
draft is counted over all drafts that were played together; the critique, among those of its draft; the revision,
among those after its critique. Games with equal first numbers have the same c_0, and games whose first two numbers are
equal also have the same f_0. A game that was played alone has ``()``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from math import prod

import numpy as np

from waltz_env.checks import check_integer
from waltz_env.errors import UsageError
from waltz_env.rules import Rules
from waltz_env.types import Trajectory

Branches = tuple[int, int, int]
"""n drafts per prompt, k critiques per draft, m revisions per critique."""

ALONE: Branches = (1, 1, 1)
"""No branches: every game is played by itself."""


def repeats(game: Trajectory) -> bool:
    """Whether the game ended before it branched and stands in its tree again, only to be counted."""
    return any(game.branch[len(game.responses) + len(game.critiques) :])


def parse_branches(text: str) -> Branches:
    """The branches in a text.

    >>> parse_branches("1,4,1")
    (1, 4, 1)

    Raises:
        UsageError: the text is not three numbers of 1 or more with commas between them.
    """
    try:
        drafts, critiques, revisions = map(int, text.split(","))
    except ValueError:
        raise UsageError(
            f"branches are three numbers, drafts,critiques,revisions, such as 1,4,1; got {text!r}."
        ) from None
    check_branches((drafts, critiques, revisions))
    return drafts, critiques, revisions


def games_at_equal_tokens(games: Iterable[Trajectory], *, count: int, played: Branches, branches: Branches) -> int:
    """The number of games with other branches that cost about as many sampled tokens.

    Args:
        games: games that were played, judged or not; what they cost is what the others are expected to cost.
        count: how many such games are to be matched, of trees with the branches ``played``.
        played: the branches of ``games``.
        branches: the other branches.

    Returns:
        A multiple of n k m, at least that.

    Raises:
        UsageError: nobody knows how many tokens a turn has.
    """
    parts = np.mean([_tokens(game) for game in games], axis=0)  # draft, first critique, all that follows it

    def cost(n: int, k: int, m: int) -> float:
        """Expected tokens of a tree. A game stands in its tree as often as it branches, so means over games hold."""
        return float(parts @ (n, n * k, n * k * m))

    trees = count / prod(played) * cost(*played) / cost(*branches)
    return max(1, round(trees)) * prod(branches)


def _tokens(game: Trajectory) -> tuple[int, int, int]:
    completions = [each.completion for pair in zip_longest(game.responses, game.critiques) for each in pair if each]
    counts = [completion.tokens for completion in completions]
    if None in counts:
        raise UsageError("A turn is a text alone, and nobody knows how many tokens it has.")
    draft, critique, *rest = [*(each.completion_tokens for each in counts if each), 0]
    return draft, critique, sum(rest)


def check_branches(branches: Sequence[int], rules: Rules | None = None) -> None:
    """Checks that there are three numbers of 1 or more, and that games of these rules can branch so.

    Raises:
        UsageError: there are not, or critiques and revisions are to branch and the rules allow none.
        UsageTypeError: a number is not an integer.
    """
    if len(branches) != 3:
        raise UsageError(
            f"branches must be three numbers, drafts, critiques and revisions, such as 2 2 1; got {branches!r}."
        )
    for name, count in zip(("drafts", "critiques", "revisions"), branches, strict=True):
        check_integer(f"branches: the number of {name}", count, at_least=1)
    if rules is not None and rules.max_rounds == 0 and prod(branches[1:]) > 1:
        raise UsageError(
            f"branches {branches!r} repeat critiques or revisions, and rules with max_rounds=0 allow none. Use "
            f"({branches[0]}, 1, 1)."
        )
