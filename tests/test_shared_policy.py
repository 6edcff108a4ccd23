"""One policy in both roles: one learner, in the trainer too."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from tests.games import WordJudge
from tests.learners import toy_config
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents.layouts import lora_policies
from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.algorithms.probes.games import PROMPTS, KeywordJudge, token_agents
from waltz_env.algorithms.protocols import Metrics, Sample
from waltz_env.algorithms.registry import with_settings
from waltz_env.algorithms.training.learners import build_learners, update_learners
from waltz_env.algorithms.training.loop import LoopConfig, train
from waltz_env.algorithms.training.samples import SampleConfig
from waltz_env.algorithms.training.stages import Stage
from waltz_env.errors import UsageError
from waltz_env.presets.nano.templates import conversation_messages, feedback_messages
from waltz_env.presets.pair import agents_of
from waltz_env.prompts import PromptSet
from waltz_env.types import CONVERSATION, FEEDBACK, Kind, Prompt

CONFIG = toy_config("reinforce++")
BOTH = Stage("both", 4, {FEEDBACK: CONFIG, CONVERSATION: CONFIG})
SHORT = {CONVERSATION: conversation_messages, FEEDBACK: feedback_messages}


@pytest.mark.parametrize("shared", [True, False])
def test_agents_of_one_policy_have_one_learner(shared: bool) -> None:
    agents = token_agents(shared=shared)
    learners = build_learners(BOTH, agents, Accelerator(cpu=True))
    assert list(learners) == [FEEDBACK, CONVERSATION]
    assert (learners[FEEDBACK] is learners[CONVERSATION]) == shared


def test_different_settings_for_one_policy_are_refused() -> None:
    stage = replace(BOTH, learners={FEEDBACK: CONFIG, CONVERSATION: with_settings(CONFIG, beta=0.5)})
    with pytest.raises(UsageError, match="share one policy"):
        build_learners(stage, token_agents(shared=True), Accelerator(cpu=True))


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
    assert "update_seconds" in metrics["B"]


def train_a_tiny_model(folder: Path, algorithm: str, *, resume: bool) -> LanguageModelPolicy:
    """Four steps in which one adapter learns both roles."""
    policy = lora_policies(tiny_model(), tiny_tokenizer(), names=["shared"], rank=4)["shared"]
    shared = {CONVERSATION: policy, FEEDBACK: policy}
    config = toy_config(algorithm, learning_rate=1e-2, min_reward_std=0.0)
    train(
        agents_of(shared, templates=SHORT, max_new_tokens=6, batch_size=4, seed=3),
        [Stage("both", 4, {FEEDBACK: config, CONVERSATION: config})],
        judge=WordJudge(),
        prompts=PromptSet([Prompt(f"Tell me {i}", Kind.BENIGN, id=str(i)) for i in range(4)]),
        folder=folder,
        config=LoopConfig(games=4, samples=SampleConfig(turns="all"), save_every=2),
        accelerator=Accelerator(cpu=True),
        resume=resume,
    )
    return policy


@pytest.mark.parametrize("algorithm", ["reinforce++", "ppo", "role-baseline"])
def test_interrupted_training_of_a_shared_policy_continues_bit_for_bit(tmp_path: Path, algorithm: str) -> None:
    whole = train_a_tiny_model(tmp_path, algorithm, resume=False)
    shutil.rmtree(tmp_path / "checkpoints" / "step-00004")
    continued = train_a_tiny_model(tmp_path, algorithm, resume=True)
    assert whole.version == continued.version == 4
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, continued.state_dict()[name]), name


def test_the_trainer_makes_one_update_a_step_of_a_shared_policy(tmp_path: Path) -> None:
    agents = token_agents(shared=True)
    train(
        agents,
        [BOTH],
        judge=KeywordJudge(),
        prompts=PromptSet(PROMPTS[:2]),
        folder=tmp_path,
        config=LoopConfig(games=16, branches=(8, 1, 1)),
        accelerator=Accelerator(cpu=True),
    )
    policy = agents[CONVERSATION].policy
    assert policy.version == BOTH.steps
    assert not torch.equal(policy.table, token_agents()[CONVERSATION].policy.table)
