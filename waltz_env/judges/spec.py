"""A judge by what a user types: ``--judge rules``."""

from __future__ import annotations

from waltz_env.errors import unknown_name
from waltz_env.judges.rules import RuleJudge
from waltz_env.protocols import Judge


def load_judge(spec: str) -> Judge:
    """The judge that ``spec`` names.

    >>> type(load_judge("rules")).__name__
    'RuleJudge'

    Raises:
        UsageError: there is no judge of that name; the nearest one is suggested.
    """
    if spec == "rules":
        return RuleJudge()
    raise unknown_name("judge", spec, ["rules"])
