"""The prompts of a run: taken from several sets, without the texts of the test sets, and kept in the run folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from waltz_env.checks import check_distinct
from waltz_env.errors import UsageError
from waltz_env.files import atomic_folder
from waltz_env.presets.recipe import PromptSource
from waltz_env.prompts import PromptSet
from waltz_env.prompts.sources import set_name
from waltz_env.run_folder import RunFolder

SHORT_NAMES = {"wildjailbreak": "wildjailbreak-train", "or-bench": "or-bench-80k"}
"""Sets of several parts, and the part that one trains on."""

_AMOUNT = re.compile(r"(?P<source>.+):(?P<number>[0-9]+)(?P<percent>%?)")
_FEWEST = 5  # of them, one is held out for validation
_BY_TOPIC = 10


class PromptSets(NamedTuple):
    """Prompts to train on, prompts that settings may be chosen on, test sets by name, and where the first come from."""

    train: PromptSet
    validation: PromptSet
    tests: dict[str, PromptSet]
    sources: tuple[PromptSource, ...] = ()


def prompt_sets(
    prompts: Sequence[str], tests: Sequence[str], *, seed: int, folder: RunFolder, keep: bool
) -> PromptSets:
    """The prompts in the run folder; without any, those that the sets give.

    A run keeps its prompts, so that it continues with them and can be served where the sets are not.

    Args:
        prompts: sets to train on, see ``gather``.
        tests: test sets.
        seed: seed of the choice where a set is not taken whole.
        folder: the run folder.
        keep: whether this process keeps them there.
    """
    if folder.prompts.is_dir():
        return _read(folder.prompts)
    sets = gather(prompts, tests, seed=seed)
    if keep:
        with atomic_folder(folder.prompts) as temporary:
            sets.train.save(temporary / "train.jsonl")
            sets.validation.save(temporary / "validation.jsonl")
            for name, test in sets.tests.items():
                test.save(temporary / "test" / f"{name}.jsonl")
    return sets


def _read(folder: Path) -> PromptSets:
    tests = {path.stem: PromptSet.load(path) for path in sorted((folder / "test").glob("*.jsonl"))}
    return PromptSets(PromptSet.load(folder / "train.jsonl"), PromptSet.load(folder / "validation.jsonl"), tests)


def gather(prompts: Sequence[str], tests: Sequence[str], *, seed: int) -> PromptSets:
    """Take prompts to train on from several sets: no text twice, and none that a test set has.

    Args:
        prompts: sets in the grammar of ``PromptSet.load``. ``SET:COUNT`` takes so many prompts at random, ``SET:20%``
            such a share; ``SHORT_NAMES`` are allowed.
        tests: test sets, in the same grammar.
        seed: seed of the choice.

    Raises:
        UsageError: no set is named, a set has too few prompts, the prompts are all of one kind, or two test sets have
            the same name.
        DataError: a set cannot be loaded.
    """
    for what, named in (("prompts to train on: --prompts", prompts), ("held-out prompts: --test", tests)):
        if not named:
            raise UsageError(f"Name {what} SET, such as a JSONL file.")
    names = [set_name(_split_amount(spec)[0]) for spec in tests]
    check_distinct(names, "test sets")
    held_out = {
        name: _take(PromptSet.load(_source(spec)), spec, seed) for name, spec in sorted(zip(names, tests, strict=True))
    }
    taken: list[PromptSet] = []
    sources = []
    for spec in prompts:
        loaded = PromptSet.load(_source(spec))
        unique = loaded.deduplicate(against=taken)
        clean = unique.deduplicate(against=held_out.values())
        taken.append(_with_other_ids(_take(clean, spec, seed), taken))
        sources.append(PromptSource(spec, taken[-1], len(loaded) - len(unique), len(unique) - len(clean)))
    together = PromptSet([prompt for each in taken for prompt in each], " ".join(prompts))
    if not together:
        raise UsageError(
            f"No prompts to train on are left: all texts of {' '.join(prompts)} are in the test sets "
            f"({' '.join(tests)})."
        )
    if not together.harmful or not together.benign:
        kind, other = ("harmful", "benign") if together.harmful else ("benign", "harmful")
        raise UsageError(
            f"All {len(together)} prompts to train on are {kind}, so the pair would learn to treat every prompt alike. "
            f"Add {other} ones to --prompts."
        )
    if len(together) < _FEWEST:
        raise UsageError(f"There are {len(together)} prompts to train on; {_FEWEST} or more are needed.")
    topics = {prompt.topic or index for index, prompt in enumerate(together)}
    train, validation = together.split(0.9, seed=0, by="topic" if len(topics) >= _BY_TOPIC else None)
    return PromptSets(train, validation, held_out, tuple(sources))


def _split_amount(spec: str) -> tuple[str, str, bool]:
    """The set, the number as it was written, and whether the number is a percentage; no number takes the whole set."""
    match = _AMOUNT.fullmatch(spec)
    return (match["source"], match["number"], bool(match["percent"])) if match else (spec, "", False)


def _source(spec: str) -> str:
    source, _, _ = _split_amount(spec)
    return SHORT_NAMES.get(source, source)


def _take(prompts: PromptSet, spec: str, seed: int) -> PromptSet:
    _, number, is_share = _split_amount(spec)
    if not number:
        return prompts
    count = round(len(prompts) * int(number) / 100) if is_share else int(number)
    if not 1 <= count <= len(prompts):
        raise UsageError(
            f"{spec} asks for {count} prompts; the set has {len(prompts)}, without repeated texts and those of the "
            "test sets."
        )
    return prompts.shuffle(seed)[:count]


def _with_other_ids(prompts: PromptSet, others: Sequence[PromptSet]) -> PromptSet:
    """The prompts with ids that no set of ``others`` has: two files may number theirs alike."""
    known = {prompt.id for other in others for prompt in other if prompt.id}
    if not any(prompt.id in known for prompt in prompts):
        return prompts
    return PromptSet((replace(each, id=f"{len(others) + 1}:{each.id}") for each in prompts), prompts.name)
