"""One policy in both roles: one learner, in the trainer too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from tests.learners import toy_config
from waltz_env.algorithms.probe_games import PROMPTS, KeywordJudge, TokenAgent, token_agents
from waltz_env.algorithms.protocols import Metrics, Sample
from waltz_env.algorithms.shared_policy import build_learners, update_learners
from waltz_env.algorithms.stages import Stage
from waltz_env.algorithms.trainer import TrainConfig, train
from waltz_env.errors import UsageError
from waltz_env.prompts import PromptSet
from waltz_env.types import CONVERSATION, FEEDBACK

CONFIG = toy_config("reinforce++")
BOTH = Stage("both", 4, {FEEDBACK: CONFIG, CONVERSATION: CONFIG})


def policies(agents: dict[str, TokenAgent]) -> dict[str, object]:
    return {name: agent.policy for name, agent in agents.items()}


@pytest.mark.parametrize("shared", [True, False])
def test_agents_of_one_policy_have_one_learner(shared: bool) -> None:
    agents = token_agents(shared=shared)
    learners = build_learners(BOTH, policies(agents), Accelerator(cpu=True))  # type: ignore[arg-type]
    assert list(learners) == [FEEDBACK, CONVERSATION]
    assert (learners[FEEDBACK] is learners[CONVERSATION]) == shared


def test_different_settings_for_one_policy_are_refused() -> None:
    stage = replace(BOTH, learners={FEEDBACK: CONFIG, CONVERSATION: replace(CONFIG, beta=0.5)})
    with pytest.raises(UsageError, match="share one policy"):
        build_learners(stage, policies(token_agents(shared=True)), Accelerator(cpu=True))  # type: ignore[arg-type]


class Recorder:
    """A learner that remembers the rewards of its updates."""

    def __init__(self) -> None:
        self.updates: list[list[float]] = []

    def update(self, samples: Sequence[Sample]) -> Metrics:
        self.updates.append([sample.reward for sample in samples])
        return {"rows": float(len(samples))}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: object) -> None:
        pass


def test_a_shared_learner_is_updated_once_with_the_rows_of_all_its_agents() -> None:
    rows = {
        agent: [Sample((0,), (1,), (-0.5,), reward, 0, 0)] for agent, reward in [("A", 1.0), ("B", 2.0), ("C", 3.0)]
    }
    shared, own = Recorder(), Recorder()
    metrics = update_learners({"A": shared, "B": own, "C": shared}, rows)
    assert (shared.updates, own.updates) == ([[1.0, 3.0]], [[2.0]])
    assert metrics["A"] == metrics["C"]
    assert (metrics["A"]["rows"], metrics["B"]["rows"]) == (2, 1)
    assert metrics["B"]["update_seconds"] >= 0


def test_the_trainer_makes_one_update_a_step_of_a_shared_policy(tmp_path: Path) -> None:
    agents = token_agents(shared=True)
    train(
        policies(agents),  # type: ignore[arg-type]
        agents,
        judge=KeywordJudge(),
        prompts=PromptSet(PROMPTS[:2]),
        stages=[BOTH],
        folder=tmp_path,
        config=TrainConfig(games=16, games_per_prompt=8),
        accelerator=Accelerator(cpu=True),
    )
    policy = agents[CONVERSATION].policy
    assert policy.version == BOTH.steps
    assert not torch.equal(policy.table, token_agents()[CONVERSATION].policy.table)
