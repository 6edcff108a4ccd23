"""What a revision changed, word by word."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

# A token is a word or a punctuation mark with the white space after it, so the text is its tokens joined. Chinese and
# Japanese have no spaces between words, so each of their characters is a token.
_TOKEN = re.compile(r"\s+|[\u3040-\u30ff\u3400-\u9fff]\s*|[^\W\u3040-\u30ff\u3400-\u9fff]+\s*|[^\w\s]\s*")
# Matching takes time in proportion to the product of the two lengths, seconds above this one. Longer differences are
# then shown as one change.
_MOST_PAIRS = 4_000_000

Change = tuple[str, str, str]


def changes(before: str, after: str) -> list[Change]:
    """Returns the changes that turn ``before`` into ``after``.

    Returns:
        ``(kept, removed, added)`` in order. Joined, what is kept or removed is ``before``, and what is kept or added is
        ``after``.

    >>> changes("I will not help.", "I will gladly help.")
    [('I will ', 'not ', 'gladly '), ('help.', '', '')]
    """
    old, new = _TOKEN.findall(before), _TOKEN.findall(after)
    head = _common(old, new)
    tail = _common(old[head:][::-1], new[head:][::-1])
    # What both texts share, in order: their common head, matches between head and tail, their common tail, and an
    # empty block at the two ends, so that every difference comes before some block.
    blocks = [
        (0, 0, head),
        *_matches(old, new, head, tail),
        (len(old) - tail, len(new) - tail, tail),
        (len(old), len(new), 0),
    ]
    result: list[Change] = []
    kept = ""  # shared text since the last difference
    i = j = 0  # ends of the last block in ``old`` and ``new``
    for start, other, size in blocks:
        if start > i or other > j:  # the texts differ between the last block and this one
            result.append((kept, "".join(old[i:start]), "".join(new[j:other])))
            kept = ""
        kept += "".join(old[start : start + size])
        i, j = start + size, other + size
    return [*result, (kept, "", "")] if kept else result


def _common(one: list[str], other: list[str]) -> int:
    """Counts the tokens that both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _matches(old: list[str], new: list[str], head: int, tail: int) -> list[tuple[int, int, int]]:
    """Returns ``(start in old, start in new, length)`` of all that both share between their common head and tail."""
    one, other = old[head : len(old) - tail], new[head : len(new) - tail]
    if len(one) * len(other) > _MOST_PAIRS:
        return []
    blocks = SequenceMatcher(None, one, other).get_matching_blocks()
    return [(head + start, head + begin, size) for start, begin, size in blocks]
