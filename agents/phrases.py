"""Which tokens usually follow: a memory of what was said before, from which the next tokens are guessed."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Sequence

CONTEXTS = (8, 4, 2)  # numbers of tokens that a guess looks back; the longest that is known decides
REMEMBERED = 256  # texts; older ones are forgotten
LIKELY = 0.4  # a guess goes on while all of its tokens together have come true this often
_BEFORE = -1  # stands before the first token of every text


class Phrases:
    """Counts which token followed which tokens, in the latest texts.

    A guess costs nothing but time if it is wrong: whoever uses it checks it. The memory is therefore not part of any
    random state, and not saved.
    """

    def __init__(self) -> None:
        self._texts: deque[tuple[int, ...]] = deque()
        self._followers: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)

    def add(self, tokens: Sequence[int]) -> None:
        """Remembers a text, and forgets the oldest one if there are too many."""
        self._texts.append(tuple(tokens))
        for context, token in _contexts(self._texts[-1]):
            self._followers[context][token] += 1
        if len(self._texts) > REMEMBERED:
            for context, token in _contexts(self._texts.popleft()):
                self._followers[context][token] -= 1
                if not self._followers[context].total():
                    del self._followers[context]

    def guess(self, tokens: Sequence[int], most: int) -> list[int]:
        """The tokens that probably follow a text that begins with ``tokens``, at most ``most`` of them."""
        said = [*[_BEFORE] * CONTEXTS[0], *tokens]
        start, likely = len(said), 1.0
        while len(said) < start + most:
            known = (self._followers.get(tuple(said[-size:])) for size in CONTEXTS)
            followers = next(filter(None, known), None)
            if followers is None:
                break
            ((token, count),) = followers.most_common(1)
            likely *= count / followers.total()
            if likely < LIKELY:
                break
            said.append(token)
        return said[start:]


def _contexts(tokens: tuple[int, ...]) -> list[tuple[tuple[int, ...], int]]:
    """Each token of a text with the tokens before it, for every number in ``CONTEXTS``."""
    said = (*[_BEFORE] * CONTEXTS[0], *tokens)
    places = range(CONTEXTS[0], len(said))
    return [(said[place - size : place], said[place]) for place in places for size in CONTEXTS]
