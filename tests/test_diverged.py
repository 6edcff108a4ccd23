"""A gradient that is NaN or infinite ends training, names agent, step and newest good checkpoint, and moves nothing."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.games import WordJudge
from tests.tiny import tiny_model
from tests.tiny_preset import tiny_pair
from waltz_env.algorithms import LoopConfig, SampleConfig, Stage, algorithm, train
from waltz_env.algorithms.critic import Critic, CriticConfig
from waltz_env.algorithms.probes.conformance import toy_policy
from waltz_env.algorithms.processes import Processes
from waltz_env.algorithms.registry import ALGORITHMS
from waltz_env.algorithms.supervised import SupervisedConfig, fit
from waltz_env.algorithms.training import checkpoint
from waltz_env.errors import DivergedError
from waltz_env.prompts import PromptSet
from waltz_env.records import read_games
from waltz_env.run_folder import RunFolder
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK, AgentID, Kind, Prompt

PROMPTS = PromptSet([Prompt(f"prompt {kind}", kind, id=str(kind)) for kind in Kind])
LOOP = LoopConfig(games=4, branches=(2, 1, 1), samples=SampleConfig(turns="all"), save_every=1)


def run(
    folder: Path, agents: Any, name: str, trained: tuple[AgentID, ...] = AGENTS, *, rate: float = 1e-2, steps: int = 4
) -> None:
    learner = algorithm(name, learning_rate=rate, min_reward_std=0.0)
    stage = Stage("both", steps, dict.fromkeys(trained, learner))
    train(agents, [stage], judge=WordJudge(), prompts=PROMPTS, folder=folder, config=LOOP)


def spoil(agents: Any, agent: AgentID, value: float, *, update: int) -> None:
    """Makes one gradient of ``agent`` not finite from its ``update`` on, counted from 1; sampling never sees it."""
    policy = agents[agent].policy
    parameter = policy.parameters()[-1]

    def hook(gradient: Tensor) -> Tensor:
        return gradient.fill_(value) if policy.version >= update - 1 else gradient

    parameter.register_hook(hook)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_agent_step_and_checkpoint_are_named_and_the_games_are_there(name: str, value: float, tmp_path: Path) -> None:
    agents = tiny_pair(0)
    spoil(agents, FEEDBACK, value, update=3)
    with pytest.raises(DivergedError) as error:
        run(tmp_path, agents, name)
    assert re.match(r"Step 3: The update of feedback_0 failed\. The gradient is not finite", str(error.value))
    assert f"The newest good checkpoint is {tmp_path / 'checkpoints' / 'step-00002'}." in str(error.value)
    folder = RunFolder(tmp_path)
    assert len(read_games(folder.games_of_step(3))) == 4
    assert [line["step"] for line in folder.read_metrics()] == [1, 2]
    for policy in (agents[agent].policy for agent in AGENTS):
        assert all(bool(parameter.isfinite().all()) for parameter in policy.parameters())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_weights_that_overflow_in_the_last_update_are_no_result(name: str, tmp_path: Path) -> None:
    # No gradient is left to tell: the run has a single step.
    with pytest.raises(DivergedError, match=r"Step 1: The update of feedback_0 failed\. The weights are not finite"):
        run(tmp_path, tiny_pair(0), name, (FEEDBACK,), rate=1e38, steps=1)
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_a_critic_s_weights_are_checked_too() -> None:
    settings = CriticConfig(learning_rate=1e38, epochs=1)
    critic = Critic(toy_policy(), settings, processes=Processes(None))
    with pytest.raises(DivergedError, match="The critic's weights are not finite"):
        critic.fit(torch.ones(3, toy_policy().feature_size), targets=torch.ones(3))


@pytest.mark.parametrize("agent", AGENTS)
def test_the_agent_that_failed_is_the_one_that_is_named(agent: AgentID, tmp_path: Path) -> None:
    agents = tiny_pair(0)
    spoil(agents, agent, math.nan, update=1)
    with pytest.raises(DivergedError, match=f"Step 1: The update of {agent} failed.*There is no good checkpoint"):
        run(tmp_path, agents, "grpo")


def test_both_roles_are_named_where_they_share_a_policy(tmp_path: Path) -> None:
    agents = tiny_pair(0, shared=True)
    spoil(agents, CONVERSATION, math.nan, update=1)
    with pytest.raises(
        DivergedError, match="The update of (feedback_0 and conversation_0|conversation_0 and feedback_0)"
    ):
        run(tmp_path, agents, "role-baseline")


def test_a_checkpoint_that_holds_nan_or_is_damaged_is_not_called_good(tmp_path: Path) -> None:
    for step, value in ((1, 1.0), (2, 2.0), (3, math.nan), (4, 4.0)):
        checkpoint.save(tmp_path / f"step-{step:05d}", {"policy/a": {"w": torch.tensor([value])}}, {}, keep=9)
    (tmp_path / "step-00004" / checkpoint.TENSORS_FILE).write_bytes(b"cut short")
    assert checkpoint.latest(tmp_path) == tmp_path / "step-00004"
    assert checkpoint.latest_finite(tmp_path) == tmp_path / "step-00002"


def test_a_critic_s_gradient_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Critic.fit

    def fit_to_infinity(self: Critic, inputs: Tensor, *, targets: Tensor) -> Any:
        return original(self, inputs, targets=targets.fill_(math.inf))

    monkeypatch.setattr(Critic, "fit", fit_to_infinity)
    with pytest.raises(DivergedError, match=r"Step 1: The update of feedback_0 failed\. The critic's gradient"):
        run(tmp_path, tiny_pair(0), "ppo", (FEEDBACK,))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_warm_start_ends_with_its_step(value: float) -> None:
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    next(model.parameters()).register_hook(lambda gradient: gradient.fill_(value))
    with pytest.raises(DivergedError, match="Step 1: the gradient is not finite"):
        fit(model, [([1, 2], [3, 4])], config=SupervisedConfig(steps=3, batch_size=1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_warm_start_whose_last_step_overflows_is_no_model() -> None:
    settings = SupervisedConfig(steps=1, batch_size=1, learning_rate=1e38)
    with pytest.raises(DivergedError, match="The weights are not finite"):
        fit(tiny_model(), [([1, 2], [3, 4])], config=settings)
