"""Judges: what labels a response."""

from waltz_env.judges.rules import RuleJudge
from waltz_env.judges.spec import load_judge

__all__ = ["RuleJudge", "load_judge"]
