from __future__ import annotations

import pytest

from waltz_env.errors import UsageError
from waltz_env.judges import RuleJudge, load_judge


def test_the_built_in_judge_has_a_name() -> None:
    assert isinstance(load_judge("rules"), RuleJudge)


def test_a_mistyped_judge_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="Unknown judge 'rule'. Did you mean 'rules'?"):
        load_judge("rule")
