"""What a pair must earn in the discrete game to count as having learned it."""

from __future__ import annotations

from waltz_env import CONVERSATION, FEEDBACK
from waltz_env.types import AgentID

Returns = dict[AgentID, float]


def assert_learned(returns: tuple[Returns, Returns]) -> None:
    """Most of the way from random play (.833, .173) to the solution (.9765, .4900), and far above never flagging."""
    before, after = returns
    assert before[CONVERSATION] < 0.87
    assert before[FEEDBACK] < 0.2
    assert after[CONVERSATION] > 0.93
    assert after[FEEDBACK] > 0.44
