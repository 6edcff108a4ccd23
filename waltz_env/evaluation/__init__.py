"""Evaluation: rates with intervals, and systems side by side."""

from waltz_env.evaluation.metrics import Proportion, first_only, proportion, rates

__all__ = ["Proportion", "first_only", "proportion", "rates"]
