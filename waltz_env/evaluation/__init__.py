"""Evaluation: rates with intervals, paired comparisons of systems, and safeguards."""

from waltz_env.evaluation.comparison import Difference, compare, compare_systems, paired
from waltz_env.evaluation.metrics import Proportion, bounds, first_only, no_verdict_reasons, proportion, rates
from waltz_env.evaluation.safeguard import safeguarded

__all__ = [
    "Difference",
    "Proportion",
    "bounds",
    "compare",
    "compare_systems",
    "first_only",
    "no_verdict_reasons",
    "paired",
    "proportion",
    "rates",
    "safeguarded",
]
