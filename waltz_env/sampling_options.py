"""How one completion is sampled, where its reader may decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from waltz_env.checks import check_integer, check_number, check_settings
from waltz_env.errors import UsageError, UsageTypeError


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """Wishes for one completion. None, or no stop string, leaves the agent's own setting.

    An agent that streams calls ``on_text``, from any thread, whenever it has written more of the completion. What it is
    told is the text so far, always the beginning of ``Completion.text``. Other agents never call it.

    Attributes:
        temperature: sampling temperature; 0 is greedy.
        top_p: probability mass of the smallest set of tokens to sample from, in (0, 1].
        max_tokens: maximum number of tokens, at most the agent's own.
        seed: seed of the completion's own random stream.
        stop: strings that the text ends before.
        complete: given the text so far, returns the whole text as soon as nobody needs the rest, otherwise None. An
            agent that can stop there ends with that text; any other writes on.
        series: name of the completions whose phrases this one probably repeats; empty if there are none. An agent may
            then check many tokens at once, which changes how long a completion takes, and not what it says.
        on_text: hears the text so far while it is written; it must not block or raise.

    Raises:
        UsageError: a value is out of range.
        UsageTypeError: a value is of the wrong type.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    complete: Callable[[str], str | None] | None = None
    series: str = ""
    on_text: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        if self.temperature is not None:
            check_number("temperature", self.temperature, low=0)
        if self.top_p is not None:
            check_number("top_p", self.top_p, above=0, high=1)
        if self.max_tokens is not None:
            check_integer("max_tokens", self.max_tokens, at_least=1)
        if self.seed is not None:
            check_integer("seed", self.seed, at_least=-(2**63))
            if self.seed >= 2**64:
                raise UsageError(f"seed must have at most 64 bits; got {self.seed}.")
        if self.complete is not None and not callable(self.complete):
            raise UsageTypeError(f"complete must be a function of the text so far; got {self.complete!r}.")
        if self.on_text is not None and not callable(self.on_text):
            raise UsageTypeError(f"on_text must be a function of the text so far; got {self.on_text!r}.")
        if not all(self.stop):
            raise UsageError("A stop string must not be empty.")
