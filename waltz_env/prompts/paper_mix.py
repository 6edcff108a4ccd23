"""The training prompts of arXiv:2510.08240, section 4: half attacks, half borderline requests, for two stages."""

from __future__ import annotations

from collections.abc import Iterable

from waltz_env.errors import UsageError
from waltz_env.prompts.prompt_set import PromptSet

ATTACKS = "adversarial_harmful"
HARMFUL_TESTS = ("wildjailbreak-eval", "fortress-adversarial", "strongreject")
BENIGN_TESTS = ("or-bench-hard-1k", "fortress-benign")
TESTS = (*HARMFUL_TESTS, *BENIGN_TESTS)


def paper_mix(
    *,
    harmful: PromptSet | str = "wildjailbreak-train",
    benign: PromptSet | str = "or-bench-80k",
    held_out: Iterable[PromptSet | str] = TESTS,
    size: int = 10_000,
    seed: int = 0,
) -> tuple[PromptSet, PromptSet]:
    """The prompts of stage 1 and of stage 2: ``size / 2`` harmful and as many benign ones each, none twice.

    The paper takes 10,000 adversarial harmful prompts of WildJailbreak's training split and 10,000 of OR-Bench-80K that
    are not in OR-Bench-Hard-1K. Which ones is not known; here they are drawn by ``seed``. Beyond the paper, no text of
    any evaluation set is trained on, whatever its case and white space (see ``PromptSet.deduplicate``).

    Args:
        harmful: a set whose prompts of the category ``adversarial_harmful`` are drawn from.
        benign: a set to draw the benign ones from.
        held_out: sets that are evaluated on.
        size: harmful prompts in all, and benign ones; even.
        seed: of the draw and of the order.

    Raises:
        UsageError: the size is not positive and even, or a set has too few prompts.
        DataError: a set cannot be loaded.
    """
    if size < 2 or size % 2:
        raise UsageError(f"Both stages get equal shares: the size must be even and 2 or more; got {size}.")
    tests = [PromptSet.load(one) for one in held_out]
    pools = [
        PromptSet.load(harmful).category(ATTACKS).harmful.deduplicate(against=tests),
        PromptSet.load(benign).benign.deduplicate(against=tests),
    ]
    attacks, borderline = (_draw(pool, size, seed + number) for number, pool in enumerate(pools))
    half = size // 2
    stage_1 = PromptSet([*attacks[:half], *borderline[:half]], "paper mix, stage 1")
    stage_2 = PromptSet([*attacks[half:], *borderline[half:]], "paper mix, stage 2")
    return stage_1.shuffle(seed), stage_2.shuffle(seed)


def _draw(pool: PromptSet, size: int, seed: int) -> PromptSet:
    if len(pool) < size:
        raise UsageError(
            f"The mix needs {size} prompts of {pool.name!r}, which has {len(pool)} once duplicates and the texts of "
            "evaluation sets are left out. Give more, or a smaller size."
        )
    return pool.shuffle(seed)[:size]
