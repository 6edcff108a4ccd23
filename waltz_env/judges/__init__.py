"""Judges: what labels a response."""

from waltz_env.judges.rules import RuleJudge

__all__ = ["RuleJudge"]
