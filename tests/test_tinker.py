"""Policies on a service with the Tinker API learn as those in this process do, each for itself, and runs continue."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tinker
import torch
from accelerate import Accelerator
from torch import Tensor

from tests.tinker_service import MODEL, PROMPTS, RANK, SERVICE, Service, pair, remote_policy
from tests.tiny import tiny_model, tiny_tokenizer
from tests.tiny_preset import LEARNER, RECIPE, Outside, tiny_pair
from waltz_env.agents.engines import check_engine, on_engine, server_urls, service_url, trains_elsewhere
from waltz_env.agents.layouts import lora_policies
from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.agents.tinker_agent import TinkerAgent
from waltz_env.agents.tinker_policy import Reduction, TinkerPolicy, connect, reduction_of
from waltz_env.algorithms import LoopConfig, SampleConfig, train, waltz_stages
from waltz_env.algorithms.protocols import LearnerConfig, Sample
from waltz_env.algorithms.registry import ALGORITHMS, algorithm
from waltz_env.algorithms.remote_learner import check_remote, remote_learner
from waltz_env.algorithms.training.learners import policies_of
from waltz_env.errors import AgentError, CheckpointError, UsageError
from waltz_env.experiments.run import execute
from waltz_env.experiments.saved_run import claim, load_run, with_engine
from waltz_env.export.weights import plan
from waltz_env.game import Game
from waltz_env.judges import RefusalJudge
from waltz_env.presets import Recipe, preset, with_algorithm
from waltz_env.presets.chat import ChatOptions
from waltz_env.presets.chat.service import service_agents
from waltz_env.rollout import play
from waltz_env.run_folder import RunFolder
from waltz_env.sampling_options import SamplingOptions
from waltz_env.testing import agent_test
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK, AgentID

CHAT = replace(preset("chat").recipe, options=ChatOptions(model="some/model"))
REMOTE = [name for name in ALGORITHMS if name not in ("ppo", "mappo")]
CONFIGS: dict[str, LearnerConfig] = {name: algorithm(name, learning_rate=1e-3, beta=0.1) for name in REMOTE} | {
    "token": algorithm("reinforce++", learning_rate=1e-3, aggregation="token", weight_decay=0.1, max_grad_norm=0.01),
    "trainer": algorithm(
        "grpo",
        learning_rate=1e-3,
        old_logprobs="trainer",
        sampler_correction="truncated",
        schedule="linear",
        total_steps=9,
    ),
    "reuse": algorithm("rloo", learning_rate=1e-3, epochs=2, minibatches=2, clip=0.05, max_grad_norm=float("inf")),
}


def weights(policy: TinkerPolicy) -> dict[str, Tensor]:
    """The adapter as the service has it."""
    state: dict[str, Tensor] = policy._training_client().policy.state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}


def local_copy(policy: TinkerPolicy) -> LanguageModelPolicy:
    copy = lora_policies(tiny_model(), tiny_tokenizer(), rank=RANK)[CONVERSATION]
    copy.load_state_dict(weights(policy))
    return copy


def rows(policy: TinkerPolicy, *, gap: float = 0.0) -> list[Sample]:
    """Eight rows of unequal length, of two agents, in groups of two; ``gap`` is between the sampler and the trainer."""
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(256, (3 + i,), generator=generator).tolist() for i in range(8)]
    pairs = [(tuple(row[: 1 + i % 2]), tuple(row[1 + i % 2 :])) for i, row in enumerate(ids)]
    scored = policy.logprobs(pairs)
    return [
        Sample(
            prompt,
            tokens,
            tuple(value + gap * (i % 3) for value in logprobs),
            float(i * i % 5),
            group=(f"agent_{i % 2}", i // 4),
            version=policy.version,
            agent=f"agent_{i % 2}",
        )
        for i, ((prompt, tokens), logprobs) in enumerate(zip(pairs, scored, strict=True))
    ]


def leave_the_base(policy: TinkerPolicy) -> None:
    """One step, so that there is a KL penalty."""
    pairs = [((1, 2), (3, 4))]
    policy.step(
        pairs,
        old_logprobs=policy.logprobs(pairs),
        advantages=[[1.0, -1.0]],
        clip=0.2,
        learning_rate=0.01,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        max_grad_norm=1.0,
    )


@pytest.mark.parametrize(
    ("name", "reduction"), [*((name, "sum") for name in CONFIGS), ("reinforce++", "mean"), ("reuse", "mean")]
)
def test_updates_are_those_of_a_learner_in_this_process(name: str, reduction: Reduction) -> None:
    policy, config = remote_policy(Service(reduction)), CONFIGS[name]
    leave_the_base(policy)
    here = local_copy(policy)
    learner, own = remote_learner(config, policy), config.build(here, Accelerator(cpu=True))
    exact = learner.estimator.kl is not None and learner.config.old_logprobs == "sampler"  # see remote_learner, 3
    for _ in range(2):  # the second update has the optimizer's moments of the first
        samples = rows(policy, gap=0.0 if exact else 0.01)
        there, expected = learner.update(samples), own.update(samples)
        assert expected["skipped"] == 0
        for key, value in weights(policy).items():
            assert torch.allclose(value, here.state_dict()[key], rtol=0, atol=1e-5), key
        assert there | {"entropy": 0} == pytest.approx(expected | {"entropy": 0}, rel=1e-4, abs=1e-5)
        assert policy.version == here.version


def test_updating_one_policy_leaves_the_other_as_it_is_bit_for_bit() -> None:
    service = Service()
    one, other = remote_policy(service, seed=1), remote_policy(service, seed=2)
    pairs = [((1, 2, 3), (4, 5, 6))]
    before, base = other.logprobs(pairs), other.logprobs(pairs, reference=True)
    mine = one.logprobs(pairs)
    remote_learner(CONFIGS["grpo"], one).update(rows(one))
    assert other.logprobs(pairs) == before
    assert other.logprobs(pairs, reference=True) == base
    assert one.logprobs(pairs) != mine


def test_a_fresh_optimizer_keeps_the_weights_bit_for_bit() -> None:
    policy = remote_policy(Service())
    remote_learner(CONFIGS["grpo"], policy).update(rows(policy))
    before, version = weights(policy), policy.version
    remote_learner(CONFIGS["grpo"], policy)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(policy).items())
    assert policy._training_client().optimizer.state_dict()["state"] == {}
    assert policy.version == version


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_how_a_service_adds_up_losses_is_found_out(reduction: Reduction) -> None:
    assert reduction_of(Service(reduction), MODEL, rank=RANK) == reduction


def test_it_passes_the_agent_test() -> None:
    agent_test(pair(Service())[CONVERSATION], roles=[CONVERSATION])


def test_only_samples_of_the_policy_itself_may_be_learned_from() -> None:
    agent = pair(Service())[CONVERSATION]
    observation = Game(PROMPTS[0]).observe(CONVERSATION)
    asked = [
        SamplingOptions(),
        SamplingOptions(temperature=0.5),
        SamplingOptions(top_p=0.9),
        SamplingOptions(max_tokens=2),
    ]
    own, colder, narrower, shorter = agent.act_with([observation] * 4, asked)
    assert len(own.logprobs or ()) == len(own.token_ids or ()) > 0
    assert colder.token_ids is None
    assert narrower.token_ids is None
    assert len(shorter.token_ids or ()) <= 2


def run(service: Service, folder: Path, **arguments: Any) -> tuple[dict[AgentID, TinkerAgent], list[dict[str, Any]]]:
    """Two steps of each stage, and the metrics of each step."""
    agents = pair(service)
    config = arguments.pop("config", LoopConfig(games=4, samples=SampleConfig(turns="all"), save_every=1))
    train(
        agents,
        waltz_stages(LEARNER, LEARNER, steps=(2, 2)),
        judge=RefusalJudge(),
        prompts=PROMPTS,
        folder=folder,
        config=config,
        accelerator=Accelerator(cpu=True),
        **arguments,
    )
    return agents, list(RunFolder(folder).read_metrics())


def test_two_stages_train_two_policies_and_begin_at_the_base(tmp_path: Path) -> None:
    service = Service()
    start = {name: weights(agent.policy) for name, agent in pair(service).items()}
    agents, metrics = run(service, tmp_path)
    assert {name: agent.policy.version for name, agent in agents.items()} == {FEEDBACK: 4, CONVERSATION: 2}
    for name, agent in agents.items():
        assert not all(torch.equal(tensor, start[name][key]) for key, tensor in weights(agent.policy).items())
    for first, name in ((metrics[0], FEEDBACK), (metrics[2], CONVERSATION)):
        assert first[f"{name}/kl"] == pytest.approx(0, abs=1e-6)
        assert first[f"{name}/kl_k3"] == pytest.approx(0, abs=1e-6)
        assert first[f"{name}/ratio_mean"] == pytest.approx(1, abs=1e-5)
        assert first[f"{name}/ratio_max"] == pytest.approx(1, abs=1e-5)
        assert first[f"{name}/staleness"] == 0
    assert metrics[1][f"{FEEDBACK}/kl_k3"] > 1e-6  # and has left it after one step


@pytest.mark.parametrize("stopped_after", [1, 2, 3])
def test_a_run_that_was_stopped_continues_as_if_it_had_not_been(tmp_path: Path, stopped_after: int) -> None:
    whole, _ = run(Service(), tmp_path / "whole")
    service, folder = Service(), tmp_path / "stopped"
    steps = iter(range(1, 9))
    run(service, folder, should_stop=lambda: next(steps) == stopped_after)
    agents, _ = run(service, folder, resume=True)
    for name, agent in agents.items():
        expected = weights(whole[name].policy)
        assert agent.policy.version == whole[name].policy.version
        assert all(torch.equal(tensor, expected[key]) for key, tensor in weights(agent.policy).items())


def test_agents_may_play_ahead_with_weights_that_are_one_version_old(tmp_path: Path) -> None:
    config = LoopConfig(games=4, samples=SampleConfig(turns="all"), max_staleness=1)
    _, metrics = run(Service(), tmp_path, config=config)
    assert [line[f"{FEEDBACK}/staleness"] for line in metrics] == [0, 1, 0, 1]


def test_what_the_service_keeps_is_written_down_for_other_programs(tmp_path: Path) -> None:
    service = Service()
    policy = remote_policy(service)
    policy.save(tmp_path)
    written = json.loads((tmp_path / "tinker.json").read_text())
    assert (written["base_model"], written["rank"]) == (MODEL, RANK)
    for name in ("state", "sampler"):
        state, _ = service.saved[written[name]]
        assert all(torch.equal(tensor, state[key]) for key, tensor in weights(policy).items())


def test_a_failing_service_is_told(tmp_path: Path) -> None:
    service = Service()
    service.failure = tinker.TinkerError("out of memory")
    policy = remote_policy(service)
    for fails in (policy.sampler, policy.state_dict, lambda: policy.logprobs([((1,), (2,))])):
        with pytest.raises(AgentError, match="Tinker service failed when .*: TinkerError: out of memory"):
            fails()
    with pytest.raises(UsageError, match="out of memory"):
        reduction_of(service, MODEL, rank=RANK)


def test_a_checkpoint_of_weights_in_a_process_is_not_one_on_a_service() -> None:
    policy = remote_policy(Service())
    with pytest.raises(CheckpointError, match="Use the engine"):
        policy.load_state_dict(local_copy(policy).state_dict())


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (algorithm("ppo"), "has a critic"),
        (algorithm("mappo"), "has a critic"),
        (algorithm("grpo", epochs=2), "KL term in its loss"),
        (algorithm("reinforce++-baseline", minibatches=2), "KL term in its loss"),
        (Outside(), "no method `estimator`"),
    ],
)
def test_an_algorithm_that_cannot_learn_on_a_service_is_refused(config: LearnerConfig, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        check_remote(config)


def test_a_whole_run_ends_with_results_and_the_paths_of_its_weights(tmp_path: Path) -> None:
    recipe = replace(RECIPE, preset="tests.tinker_service:ON_SERVICE")
    run_folder = RunFolder(tmp_path / "run")
    results = execute(recipe, run_folder, accelerator=Accelerator(cpu=True))
    assert results is not None
    assert results["players"][FEEDBACK]["model"] == MODEL
    for name in AGENTS:
        assert json.loads((run_folder.weights / name / "tinker.json").read_text())["state"] in SERVICE.saved
    _, bench = load_run(run_folder, Accelerator(cpu=True))
    assert {name: policy.version for name, policy in policies_of(bench.agents).items()} == {
        FEEDBACK: 2,
        CONVERSATION: 1,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model and its tokenizer, as on the hub."""
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("shared", [False, True])
def test_the_preset_chat_builds_its_pair_on_a_service(folder: Path, shared: bool) -> None:
    service = Service("mean", model=str(folder))
    options = ChatOptions(
        model=str(folder), adapter_rank=RANK, max_new_tokens=7, feedback_tokens=5, system_prompts="short"
    )
    agents = service_agents(service, options, hosted=False, seed=0, shared=shared)
    assert on_engine(agents, "tinker") == agents
    assert {name: agent.max_new_tokens for name, agent in agents.items()} == {CONVERSATION: 7, FEEDBACK: 5}
    assert {agent.encoder.max_tokens for agent in agents.values()} == {1024 - 7, 1024 - 5}  # as the service reads
    assert len({id(policy) for policy in policies_of(agents).values()}) == (1 if shared else 2)
    games = play(PROMPTS, agents, judge=RefusalJudge())
    assert all(game.responses[0].completion.logprobs for game in games)
    assert service.requests["sample"] > len(games)


def test_a_model_that_the_service_lacks_is_told(folder: Path) -> None:
    with pytest.raises(UsageError, match="Unknown model of the service 'tests/tyny'. Did you mean 'tests/tiny'"):
        service_agents(Service(), ChatOptions(model="tests/tyny", adapter_rank=RANK), hosted=True, seed=0)
    nothing = str(folder / "nothing")
    with pytest.raises(UsageError, match="are needed here"):
        service_agents(Service(model=nothing), ChatOptions(model=nothing, adapter_rank=RANK), hosted=True, seed=0)


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        (preset("nano").recipe, "makes its own"),
        (RECIPE, "makes its own"),
        (preset("llama-3.1-8b").recipe, "no --shard"),
        (replace(preset("llama-3.1-8b").recipe, shard=False), "leave out --all-weights"),
        (preset("llama-3.1-8b-lora").recipe, "leave out --dtype"),
        (preset("smollm2").recipe, "leave out --warm-start"),
        (replace(CHAT, options=ChatOptions(model="x", temperature=0.7)), "leave out --temperature"),
        (with_algorithm(CHAT, "ppo"), "has a critic"),
    ],
)
def test_a_recipe_that_no_service_can_follow_is_refused(recipe: Recipe, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        replace(recipe, engine="tinker").check()


def test_a_recipe_that_a_service_can_follow_is_accepted() -> None:
    replace(CHAT, engine="tinker").check()


def test_weights_and_engine_are_in_one_place() -> None:
    there = replace(CHAT, engine="tinker@http://a:8000")
    assert with_engine(there, "tinker@http://b:8000").engine == "tinker@http://b:8000"
    with pytest.raises(UsageError, match="give --engine tinker@http://a:8000"):
        with_engine(there, "transformers")
    with pytest.raises(UsageError, match="are here"):
        with_engine(CHAT, "tinker")
    with pytest.raises(UsageError, match="waltz train --model NAME --engine tinker"):
        on_engine(tiny_pair(0), "tinker")


def test_weights_on_a_service_cannot_be_exported(tmp_path: Path) -> None:
    run_folder = RunFolder(tmp_path)
    claim(run_folder, replace(CHAT, engine="tinker"))
    with pytest.raises(UsageError, match="tinker checkpoint download"):
        plan(run_folder)


def test_the_name_of_an_engine_tells_where_its_service_is() -> None:
    assert server_urls("tinker") == server_urls("tinker@http://a:8000") == ()
    assert service_url("tinker@https://a.org/services/prod/") == "https://a.org/services/prod"
    assert service_url("tinker") is None
    assert [trains_elsewhere(name) for name in ("tinker", "tinker@http://a", "vllm", "transformers")] == [
        *(True, True),
        *(False, False),
    ]
    for wrong in ("tinker@", "tinker@a:8000", "tinker@http://a,http://b"):
        with pytest.raises(UsageError, match="one URL such as"):
            server_urls(wrong)
    with pytest.raises(UsageError, match="works in one process"):
        check_engine("tinker", processes=2)


def test_a_service_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    with pytest.raises(UsageError, match="set TINKER_API_KEY"):
        connect(None)
    with pytest.raises(UsageError, match="No Tinker service answers at http://127.0.0.1:9"):
        connect("http://127.0.0.1:9")
