"""What may be told of a response while it is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from waltz_env.sampling_options import SamplingOptions


class Telling:
    """Passes on the beginning of a response that nobody will take back.

    An agent tells it the text so far, from any thread. The listener hears, in the event loop that made this, only what
    the final text will begin with: nothing from a stop string on, no end that may grow into one, and nothing of a
    second attempt that differs from what it has heard.

    Args:
        options: the listener, ``on_text``, and the stop strings.
        longest: length at which the text is cut, in characters.

    Attributes:
        told: what the listener has heard.
    """

    def __init__(self, options: SamplingOptions, *, longest: int) -> None:
        self.told = ""
        self._listener = options.on_text
        self._stops = options.stop
        self._longest = longest
        self._loop = asyncio.get_running_loop()

    @property
    def on_text(self) -> Callable[[str], None] | None:
        """What the agent calls; None if nobody listens."""
        return None if self._listener is None else self._take

    def close(self) -> None:
        """Tell nothing more."""
        self._listener = None

    def _take(self, text: str) -> None:
        if not self._loop.is_closed():  # the loop of a request that was given up may be
            self._loop.call_soon_threadsafe(self._tell, text)

    def _tell(self, text: str) -> None:
        sure = certain(text, self._stops)[: self._longest]
        if self._listener is not None and len(sure) > len(self.told) and sure.startswith(self.told):
            self.told = sure
            self._listener(sure)


def certain(text: str, stops: tuple[str, ...]) -> str:
    """The part of a text in progress that stays, whatever follows.

    >>> certain("One. Two. Th", ("Three",))
    'One. Two. '
    >>> certain("One. Two. Three. Four", ("Three",))
    'One. Two. '
    >>> certain("One. Two", ("Two", "One. Two. Three"))
    ''
    """
    found = (position for stop in stops if (position := text.find(stop)) >= 0)
    # A longer stop string may still begin earlier than one that is complete.
    begun = (len(text) - size for stop in stops for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size]))
    return text[: min([len(text), *found, *begun])]
