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
    """Draws the prompts of stages 1 and 2: each stage gets ``size / 2`` harmful and ``size / 2`` benign prompts.

    The paper takes 10,000 adversarial harmful prompts from WildJailbreak's training split and 10,000 prompts of
    OR-Bench-80K that are not in OR-Bench-Hard-1K. It does not say which ones; here ``seed`` draws them. Beyond the
    paper, no text of an evaluation set is trained on, whatever its case and white space (``PromptSet.deduplicate``).

    Args:
        harmful: set with the harmful prompts; only its category ``adversarial_harmful`` is drawn from.
        benign: set with the benign prompts.
        held_out: evaluation sets.
        size: number of harmful prompts over both stages, and of benign ones; even.
        seed: seeds the draw and the order.

    Raises:
        UsageError: the size is not positive and even, or a set has too few prompts.
        DataError: a set cannot be loaded.
    """
    if size < 2 or size % 2:
        raise UsageError(f"The size must be even and 2 or more, as both stages get half of it; got {size}.")
    tests = [PromptSet.load(source) for source in held_out]
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
            f"The mix needs {size} prompts of {pool.name!r}, which has {len(pool)} without duplicates and texts of the "
            "evaluation sets. Use a larger set or a smaller size."
        )
    return pool.shuffle(seed)[:size]
