from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.games import REFUSING, SAFE, UNSAFE, trajectory
from tests.learners import toy_config
from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.protocols import STATE, Sample
from waltz_env.algorithms.training.samples import SampleConfig, samples
from waltz_env.errors import UsageError
from waltz_env.rewards import SETUP_A
from waltz_env.types import (
    AGENTS,
    CONVERSATION,
    FEEDBACK,
    Judgement,
    Kind,
    Labels,
    Prompt,
    Trajectory,
)


def game(kind: Kind = Kind.HARMFUL) -> Trajectory:
    """An unsafe draft, flagged wrongly as overrefusing; a revision that is fine."""
    return trajectory([UNSAFE, SAFE], [REFUSING], Prompt("p", kind), tokens=True)


def all_samples(played: Trajectory, agent: str) -> list[Sample]:
    config = SampleConfig(turns="all")
    return samples([played], agent, weights=SETUP_A, rng=np.random.default_rng(0), config=config)


def states(played: Trajectory, agent: str) -> list[dict[str, float]]:
    rows = all_samples(played, agent)
    return [dict(zip(STATE, row.state, strict=True)) for row in rows]


def test_the_state_before_a_draft_is_the_prompts_kind_alone() -> None:
    assert states(game(), CONVERSATION)[0] == dict.fromkeys(STATE, 0.0) | {"harmful": 1.0}
    assert states(game(Kind.BENIGN), CONVERSATION)[0] == dict.fromkeys(STATE, 0.0)


def test_the_state_before_feedback_holds_the_verdict_on_what_it_is_about() -> None:
    assert states(game(), FEEDBACK) == [dict.fromkeys(STATE, 0.0) | {"harmful": 1.0, "unsafe": 1.0}]


def test_the_state_before_a_revision_holds_the_flags_that_the_conversation_agent_never_sees() -> None:
    expected = {"harmful": 1.0, "unsafe": 1.0, "flagged_overrefuse": 1.0, "turn": 1.0}
    assert states(game(), CONVERSATION)[1] == dict.fromkeys(STATE, 0.0) | expected


@pytest.mark.parametrize("agent", AGENTS)
def test_the_state_does_not_tell_how_the_valued_action_was_judged(agent: str) -> None:
    played = game()
    judged_otherwise = replace(
        played,
        responses=(
            played.responses[0],
            replace(played.responses[1], judgement=Judgement(Labels(unsafe=True, overrefuse=False), "test")),
        ),
    )
    assert states(played, agent) == states(judged_otherwise, agent)


def test_rows_say_whose_and_which_turn_they_are() -> None:
    rows = [row for agent in AGENTS for row in all_samples(game(), agent)]
    assert [(row.agent, row.turn) for row in rows] == [(CONVERSATION, 0), (CONVERSATION, 1), (FEEDBACK, 0)]


def test_a_centralized_critic_explains_what_an_agents_own_cannot() -> None:
    """The reward hangs on a number of the state that no token tells."""
    explained = {}
    for name in ("ppo", "mappo"):
        policy = ToyPolicy(torch.zeros(3, 3))
        learner = toy_config(name, learning_rate=0.0, beta=0.0).build(policy)
        rows = [
            Sample((0,), (i % 3,), policy.logprobs((0,), (i % 3,)), i % 2, 0, 0, state=(i % 2, 0, 0, 0, 0, 0))
            for i in range(12)
        ]
        explained[name] = [learner.update(rows)["explained_variance"] for _ in range(20)][-1]
    assert explained["ppo"] < 0.1
    assert explained["mappo"] > 0.9


def test_samples_with_another_state_are_refused() -> None:
    policy = ToyPolicy(torch.zeros(3, 3))
    rows = [Sample((0,), (i,), policy.logprobs((0,), (i,)), float(i), 0, 0, state=(1.0,)) for i in range(2)]
    with pytest.raises(UsageError, match="reads 6 numbers of state"):
        toy_config("mappo").build(policy).update(rows)
