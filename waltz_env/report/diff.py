"""What a revision changed in a draft, word by word."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

# A word or a mark with the space after it, so that tokens joined are the text. Chinese and Japanese are written without
# spaces: there each character is a token.
_TOKEN = re.compile(r"\s+|[\u3040-\u30ff\u3400-\u9fff]\s*|[^\W\u3040-\u30ff\u3400-\u9fff]+\s*|[^\w\s]\s*")
# Above this product of lengths, matching would take seconds: what differs is then one change.
_MOST_PAIRS = 4_000_000

Change = tuple[str, str, str]


def changes(before: str, after: str) -> list[Change]:
    """Turns ``before`` into ``after``.

    Returns:
        ``(kept, removed, added)`` in order: all that is kept or removed is ``before``, all that is kept or added is
        ``after``.

    >>> changes("I will not help.", "I will gladly help.")
    [('I will ', 'not ', 'gladly '), ('help.', '', '')]
    """
    old, new = _TOKEN.findall(before), _TOKEN.findall(after)
    head = _common(old, new)
    tail = _common(old[head:][::-1], new[head:][::-1])
    found: list[Change] = []
    i = j = 0
    for start, other, size in [
        (0, 0, head),
        *_matches(old, new, head, tail),
        (len(old) - tail, len(new) - tail, tail),
        (len(old), len(new), 0),
    ]:
        if start > i or other > j:
            kept = found.pop()[0] if found and not any(found[-1][1:]) else ""
            found.append((kept, "".join(old[i:start]), "".join(new[j:other])))
        if size:
            kept = found.pop()[0] if found and not any(found[-1][1:]) else ""
            found.append((kept + "".join(old[start : start + size]), "", ""))
        i, j = start + size, other + size
    return found


def _common(one: list[str], other: list[str]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _matches(old: list[str], new: list[str], head: int, tail: int) -> list[tuple[int, int, int]]:
    """``(start in old, start in new, length)`` of what both share between their common head and tail."""
    one, other = old[head : len(old) - tail], new[head : len(new) - tail]
    if len(one) * len(other) > _MOST_PAIRS:
        return []
    blocks = SequenceMatcher(None, one, other).get_matching_blocks()
    return [(head + start, head + begin, size) for start, begin, size in blocks]
