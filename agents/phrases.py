"""Which tokens probably follow: guessed from what was said before, and from the prompt."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from itertools import pairwise

CONTEXTS = (8, 4, 2)  # numbers of tokens that a guess looks back; the longest that is known decides
REMEMBERED = 256  # texts; older ones are forgotten
LIKELY = 0.4  # a guess goes on while all of its tokens together have come true this often
QUOTED = 0.8  # how often a text is taken to go on as the prompt does; the memory decides where it is surer than that
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

    def guess(self, tokens: Sequence[int], most: int, *, quotes: Mapping[int, int]) -> list[int]:
        """The tokens that probably follow a text that begins with ``tokens``, at most ``most`` of them.

        Args:
            tokens: the text so far.
            most: largest number of tokens.
            quotes: what follows each token of the prompt, see ``quotes_of``.
        """
        said = [*[_BEFORE] * CONTEXTS[0], *tokens]
        start, likely = len(said), 1.0
        while len(said) < start + most:
            token, share = self._next(said)
            if share < QUOTED and said[-1] in quotes:
                token, share = quotes[said[-1]], QUOTED
            likely *= share
            if likely < LIKELY:
                break
            said.append(token)
        return said[start:]

    def _next(self, said: Sequence[int]) -> tuple[int, float]:
        """The token that followed most often, and how often it did; 0.0 where nothing is known."""
        known = (self._followers.get(tuple(said[-size:])) for size in CONTEXTS)
        followers = next(filter(None, known), None)
        if followers is None:
            return _BEFORE, 0.0
        ((token, count),) = followers.most_common(1)
        return token, count / followers.total()


def quotes_of(prompt: Sequence[int]) -> dict[int, int]:
    """The token that follows each token of a prompt, where it stands last."""
    return dict(pairwise(prompt))


def _contexts(tokens: tuple[int, ...]) -> list[tuple[tuple[int, ...], int]]:
    """Each token of a text with the tokens before it, for every number in ``CONTEXTS``."""
    said = (*[_BEFORE] * CONTEXTS[0], *tokens)
    places = range(CONTEXTS[0], len(said))
    return [(said[place - size : place], said[place]) for place in places for size in CONTEXTS]
