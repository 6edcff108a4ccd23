"""An immutable sequence of prompts: loaded, filtered, mixed, split, shuffled and saved as a whole."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal, overload

import numpy as np

from waltz_env.errors import UsageError, UsageTypeError, unknown_name
from waltz_env.files import atomic_path
from waltz_env.prompts.jsonl import format_prompt
from waltz_env.prompts.sources import load_prompt_file, load_prompts
from waltz_env.types import Kind, Prompt


@dataclass(frozen=True, slots=True, init=False, repr=False)
class PromptSet(Sequence[Prompt]):
    """Prompts in a fixed order, with unique ids. Every method returns a new set; a set has no state.

    ``PromptCursor`` walks through a set epoch after epoch and can be saved.

    >>> prompts = PromptSet.load("builtin:test")
    >>> len(prompts) == len(prompts.harmful) + len(prompts.benign)
    True

    Args:
        prompts: any iterable of prompts; kept as a tuple. An empty id stands for no id.
        name: where the prompts come from, for messages; ignored when comparing.

    Raises:
        UsageError: two prompts have the same id.
        UsageTypeError: an element is not a ``Prompt``.
    """

    prompts: tuple[Prompt, ...]
    name: str = field(default="", compare=False)

    def __init__(self, prompts: Iterable[Prompt], name: str = "") -> None:
        object.__setattr__(self, "prompts", tuple(prompts))
        object.__setattr__(self, "name", name)
        seen: set[str] = set()
        for prompt in self.prompts:
            if not isinstance(prompt, Prompt):
                raise UsageTypeError(f"A PromptSet holds Prompt objects; got {prompt!r} ({type(prompt).__name__}).")
            if prompt.id in seen:
                raise UsageError(f"Two prompts have the id {prompt.id!r}; ids must be unique within a set, or empty.")
            if prompt.id:
                seen.add(prompt.id)

    @classmethod
    def load(cls, source: PromptSet | str | Path) -> PromptSet:
        """Loads the prompts that ``source`` names; a set is returned as it is.

        >>> PromptSet.load("builtin:train").harmful  # doctest: +SKIP
        >>> PromptSet.load("hub:allenai/wildjailbreak:eval")  # doctest: +SKIP
        >>> PromptSet.load("questions.csv?text=question&kind=benign")  # doctest: +SKIP

        Args:
            source: a string in the grammar of ``waltz_env.prompts.sources`` (a built-in or public set, a data set on
                the Hugging Face hub, a file), or the path of a file whose columns have the names of the format.

        Raises:
            UsageError: a name is unknown, the column mapping is invalid, or a package is missing.
            DataError: a file or data set cannot be read, is empty, or has a row that cannot be parsed.
        """
        if isinstance(source, PromptSet):
            return source
        if isinstance(source, str):
            return cls(load_prompts(source), source)
        if isinstance(source, Path):
            return cls(load_prompt_file(source), str(source))
        raise UsageTypeError(
            f"Prompts are loaded from a PromptSet, a name or a path; got {source!r} ({type(source).__name__})."
        )

    def save(self, path: str | Path) -> None:
        """Writes the set as JSONL. After a crash ``path`` is either unchanged or holds the whole set."""
        with atomic_path(path) as temporary:
            temporary.write_bytes(self._bytes())

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> PromptSet: ...
    def __getitem__(self, index: int | slice) -> Prompt | PromptSet:
        return self._with(self.prompts[index]) if isinstance(index, slice) else self.prompts[index]

    def __repr__(self) -> str:
        return f"PromptSet({self.name!r}: {len(self.harmful)} harmful, {len(self.benign)} benign)"

    @property
    def harmful(self) -> PromptSet:
        """The harmful prompts."""
        return self.filter(lambda prompt: prompt.kind is Kind.HARMFUL)

    @property
    def benign(self) -> PromptSet:
        """The benign prompts."""
        return self.filter(lambda prompt: prompt.kind is Kind.BENIGN)

    def category(self, name: str) -> PromptSet:
        """The prompts of one category.

        Raises:
            UsageError: no prompt has that category.
        """
        chosen = self.filter(lambda prompt: prompt.category == name)
        if not chosen:
            raise unknown_name("category", name, {prompt.category for prompt in self})
        return chosen

    def filter(self, keep: Callable[[Prompt], bool]) -> PromptSet:
        """The prompts for which ``keep`` is true, in order."""
        return self._with(filter(keep, self.prompts))

    def deduplicate(self, against: Iterable[PromptSet] = ()) -> PromptSet:
        """The first prompt of each text, without texts that occur in a set of ``against``.

        Texts that differ only in case or white space count as equal; ``history`` is part of the text.
        """
        seen = {_normalized(prompt) for other in against for prompt in other}
        kept = []
        for prompt in self:
            text = _normalized(prompt)
            if text not in seen:
                seen.add(text)
                kept.append(prompt)
        return self._with(kept)

    def shuffle(self, seed: int) -> PromptSet:
        """The same prompts in an order that depends only on ``seed``."""
        return self._take(rng(seed).permutation(len(self)))

    def split(
        self, fraction: float, seed: int, *, by: Literal["topic"] | None = "topic"
    ) -> tuple[PromptSet, PromptSet]:
        """Two disjoint parts, the first with about ``fraction`` of the prompts; each part keeps the order.

        Args:
            fraction: share of the prompts that the first part gets, in (0, 1).
            seed: seeds the draw.
            by: ``"topic"`` keeps prompts of one topic together, so that the parts share no topic; the fraction is met
                as closely as whole topics allow, and a prompt without a topic is a topic of its own. None draws single
                prompts.

        Raises:
            UsageError: the fraction is outside (0, 1), or a part would be empty.
        """
        if not 0 < fraction < 1:
            raise UsageError(f"fraction must lie between 0 and 1; got {fraction}.")
        if by not in ("topic", None):
            raise UsageError(f"A set is split by='topic' or by=None; got by={by!r}.")
        groups: dict[object, list[int]] = defaultdict(list)
        for index, prompt in enumerate(self):
            groups[(by and prompt.topic) or index].append(index)
        shuffled = list(groups.values())
        rng(seed).shuffle(shuffled)
        first: set[int] = set()
        for group in shuffled:
            missing = fraction * len(self) - len(first)
            if abs(missing - len(group)) < abs(missing):
                first.update(group)
        parts = [self._take(i for i in range(len(self)) if (i in first) is inside) for inside in (True, False)]
        if not all(parts):
            raise UsageError(
                f"{len(self)} prompts in {len(groups)} group(s) cannot be split at {fraction} without an empty part; "
                "use by=None, another fraction or more prompts."
            )
        return parts[0], parts[1]

    @classmethod
    def mix(cls, weights: Mapping[PromptSet, float], size: int, *, seed: int) -> PromptSet:
        """A shuffled set of ``size`` prompts, drawn without repetition from several sets in proportion to ``weights``.

        Shares are rounded by the largest-remainder method: they sum to ``size``, and each is off by less than one.

        >>> train = PromptSet.load("builtin:train")
        >>> PromptSet.mix({train.harmful: 1, train.benign: 3}, 8, seed=0)
        PromptSet('mix': 2 harmful, 6 benign)

        Raises:
            UsageError: a weight is not positive, a set is smaller than its share, or two sets have an id in common.
        """
        if not weights or not all(0 < weight < math.inf for weight in weights.values()):
            raise UsageError(f"A mix needs sets with positive weights; got weights {list(weights.values())}.")
        if size < 1:
            raise UsageError(f"The size of a mix must be 1 or more; got {size}.")
        shares = _shares(list(weights.values()), size)
        generator = rng(seed)
        drawn: list[Prompt] = []
        for prompts, share in zip(weights, shares, strict=True):
            if share > len(prompts):
                raise UsageError(
                    f"The mix needs {share} prompts of {prompts!r}, which has {len(prompts)}, and repeats none. Lower "
                    "the size or the weight of this set."
                )
            drawn += prompts._take(generator.permutation(len(prompts))[:share])
        return cls((drawn[i] for i in generator.permutation(size)), "mix")

    def fingerprint(self) -> str:
        """16 hexadecimal digits that depend on every prompt and on their order."""
        return hashlib.sha256(self._bytes()).hexdigest()[:16]

    def _bytes(self) -> bytes:
        return b"".join(map(format_prompt, self.prompts))

    def _with(self, prompts: Iterable[Prompt]) -> PromptSet:
        return PromptSet(prompts, self.name)

    def _take(self, indices: Iterable[int]) -> PromptSet:
        return self._with(self.prompts[index] for index in indices)


def rng(*seed: int) -> np.random.Generator:
    """A generator whose seed is a sequence of integers of 0 or more.

    Raises:
        UsageError: an integer is negative.
    """
    if any(part < 0 for part in seed):
        raise UsageError(f"A seed must be 0 or more; got {seed[0]}.")
    return np.random.default_rng(seed)


def _normalized(prompt: Prompt) -> tuple[str, ...]:
    texts = [*(message["content"] for message in prompt.history), prompt.text]
    return tuple(" ".join(text.casefold().split()) for text in texts)


def _shares(weights: Sequence[float], size: int) -> list[int]:
    """Integer shares of ``size`` by the largest-remainder method; ties go to the earlier set."""
    total = sum(map(Fraction, weights))
    exact = [size * Fraction(weight) / total for weight in weights]
    shares = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: size - sum(shares)]:
        shares[i] += 1
    return shares
