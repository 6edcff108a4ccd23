"""Evaluation: rates with intervals, comparisons of systems and of judges, and safeguards."""

from waltz_env.evaluation.agreement import Agreement, compare_judges, same_labels
from waltz_env.evaluation.comparison import Difference, compare, paired
from waltz_env.evaluation.metrics import (
    Proportion,
    added,
    bounds,
    first_only,
    no_verdict_reasons,
    proportion,
    rates,
    rates_by_category,
)
from waltz_env.evaluation.safeguard import safeguarded

__all__ = [
    "Agreement",
    "Difference",
    "Proportion",
    "added",
    "bounds",
    "compare",
    "compare_judges",
    "first_only",
    "no_verdict_reasons",
    "paired",
    "proportion",
    "rates",
    "rates_by_category",
    "safeguarded",
    "same_labels",
]
