"""Weights brought over to a real engine, and what happens when they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.vllm_engine.conftest import TEMPLATES, Pair
from waltz_env import CONVERSATION, FEEDBACK, Kind, Prompt, PromptSet
from waltz_env.agents import LanguageModelPolicy, VLLMAgent
from waltz_env.algorithms import LoopConfig, Stage, algorithm, train
from waltz_env.algorithms.training.samples import samples
from waltz_env.errors import SyncError, UsageError
from waltz_env.feedback import JSON_SCHEMA, parse_feedback
from waltz_env.game import Game
from waltz_env.judges import RefusalJudge
from waltz_env.records import read_games
from waltz_env.rewards import SETUP_B
from waltz_env.rollout import play
from waltz_env.run_folder import RunFolder
from waltz_env.sampling_options import SamplingOptions
from waltz_env.testing import agent_test
from waltz_env.types import Observation

PROMPTS = [Prompt(f"Tell me about {thing}.", Kind.BENIGN, id=thing) for thing in ("rain", "bread", "trains", "bees")]


def shake(policy: LanguageModelPolicy, size: float = 1e-3) -> None:
    """Changes the adapter's weights as an update would, without raising the version."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in policy.state_dict().values():
            tensor.add_(size * torch.randn(tensor.shape, generator=generator))


def observation() -> Observation:
    return Game(PROMPTS[0]).observe(CONVERSATION)


def trainer_logprobs(policy: LanguageModelPolicy, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> torch.Tensor:
    ids = torch.tensor([prompt + tokens])
    with torch.no_grad():
        logits = policy.logits(ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None], keep=len(tokens) + 1)
    return logits[0, :-1].log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None]).squeeze(-1)


def test_it_keeps_the_agent_protocol(pair: Pair) -> None:
    for name, agent in pair.agents.items():
        agent_test(agent, roles=[name])


def test_the_log_probabilities_that_it_keeps_are_those_of_the_trainer(pair: Pair) -> None:
    policy, agent = pair.policies[CONVERSATION], pair.agents[CONVERSATION]
    shake(policy)
    (completion,) = agent.act([observation()])
    assert completion.prompt_ids
    assert completion.token_ids
    assert completion.logprobs
    expected = trainer_logprobs(policy, completion.prompt_ids, completion.token_ids)
    torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=0, atol=1e-3)


def test_equal_weights_are_not_brought_over_again(pair: Pair) -> None:
    agent = pair.agents[CONVERSATION]
    agent.act([observation()])
    syncs = pair.engine.syncs
    agent.act([observation()])
    assert pair.engine.syncs == syncs
    shake(agent.policy)
    agent.act([observation()])
    assert pair.engine.syncs == syncs + 1
    assert pair.engine.report is not None
    assert pair.engine.report.arrived == pytest.approx(1, abs=0.05)


def test_the_random_stream_goes_on_from_its_state(pair: Pair) -> None:
    agent = pair.agents[CONVERSATION]
    state = agent.state_dict()
    first = agent.act([observation()])
    assert agent.act([observation()]) != first
    agent.load_state_dict(state)
    assert agent.act([observation()])[0].token_ids == first[0].token_ids


def test_options_hold_for_each_completion_of_a_batch_alone(pair: Pair) -> None:
    agent = pair.agents[CONVERSATION]
    options = [
        SamplingOptions(),
        SamplingOptions(max_tokens=3),
        SamplingOptions(temperature=0.0),
        SamplingOptions(top_p=1e-6),
        SamplingOptions(seed=5),
        SamplingOptions(seed=-1),
        SamplingOptions(seed=2**62, max_tokens=999),
    ]
    first, again = (agent.act_with([observation()] * len(options), options) for _ in range(2))
    plain, short, greedy, nucleus, *seeded = first
    assert plain.token_ids != again[0].token_ids  # from the agent's own stream
    assert short.tokens is not None
    assert (short.tokens.completion_tokens, short.finish) == (3, "length")
    assert greedy.text == nucleus.text == again[2].text  # hardly any mass is left but the likeliest token's
    assert [c.token_ids for c in seeded] == [c.token_ids for c in again[4:]]
    assert len({c.token_ids for c in (plain, *seeded)}) == 4
    assert [c.token_ids is None for c in first] == [False, False, True, True, False, False, False]
    assert all(len(c.token_ids or ()) <= agent.max_new_tokens for c in first)


def test_a_sync_that_does_nothing_is_an_error(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = pair.agents[CONVERSATION]
    agent.act([observation()])
    shake(agent.policy, size=1e-4)  # far too little for the gap alone to tell
    with monkeypatch.context() as planted:
        planted.setattr(pair.engine, "_bring_merged", lambda policy: None)
        with pytest.raises(SyncError, match="did not reach the sampler"):
            agent.act([observation()])
    agent.act([observation()])  # the next sync mends it


def test_weights_of_the_other_role_are_an_error(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, bring = pair.agents[CONVERSATION], pair.engine._bring_merged
    agent.act([observation()])
    shake(agent.policy)
    with monkeypatch.context() as planted:
        planted.setattr(pair.engine, "_bring_merged", lambda policy: bring(pair.policies[FEEDBACK]))
        with pytest.raises(SyncError):
            agent.act([observation()])


def train_pair(pair: Pair, folder: Path, *, steps: int, config: LoopConfig) -> bool:
    learner = algorithm(
        "reinforce++",
        learning_rate=1e-3,
        min_reward_std=0.0,
        old_logprobs="trainer",
        sampler_correction="truncated",
    )
    stage = Stage("both", steps, {CONVERSATION: learner, FEEDBACK: learner}, SETUP_B)
    return train(
        pair.agents,
        [stage],
        judge=RefusalJudge(),
        prompts=PromptSet(PROMPTS),
        folder=folder,
        config=config,
    )


def test_two_steps_of_training_sample_from_the_new_weights_each_time(pair: Pair, tmp_path: Path) -> None:
    versions = {name: policy.version for name, policy in pair.policies.items()}
    assert train_pair(pair, tmp_path, steps=2, config=LoopConfig(games=4))
    for step, line in enumerate(RunFolder(tmp_path).read_metrics()):
        for name in (CONVERSATION, FEEDBACK):
            assert line[f"{name}/staleness"] == 0
            assert float(line[f"{name}/sampler_gap"]) < 1e-3
            assert float(line[f"{name}/mismatch_kl"]) < 1e-5
        for game in read_games(RunFolder(tmp_path).games_of_step(step + 1)):
            assert {r.completion.version for r in game.responses} == {versions[CONVERSATION] + step}
    assert {n: p.version for n, p in pair.policies.items()} == {n: v + 2 for n, v in versions.items()}


def test_json_by_schema_is_well_formed_and_refused_by_a_learner(pair: Pair) -> None:
    policy = pair.policies[FEEDBACK]
    constrained = VLLMAgent(
        pair.engine, policy, template=TEMPLATES[FEEDBACK], max_new_tokens=300, json_schema=JSON_SCHEMA
    )
    games = play(PROMPTS, {**pair.agents, FEEDBACK: constrained}, judge=RefusalJudge())
    whole = [game.critiques[0] for game in games if not game.critiques[0].completion.truncated]
    assert whole
    assert all(parse_feedback(critique.completion.text).well_formed for critique in whole)
    with pytest.raises(UsageError, match="cannot be trained on"):
        samples(games, FEEDBACK, weights=SETUP_B, rng=np.random.default_rng(0))


def test_adapters_alone_can_be_brought_over_side_by_side(side_by_side: Pair) -> None:
    engine = side_by_side.engine
    for name, policy in side_by_side.policies.items():
        shake(policy)
        game = Game(PROMPTS[0])
        game.act("It is wet.")
        side_by_side.agents[name].act([observation() if name == CONVERSATION else game.observe(FEEDBACK)])
        assert engine.report is not None
        assert engine.report.arrived == pytest.approx(1, abs=0.05)
    syncs = engine.syncs
    for policy in side_by_side.policies.values():
        engine.sync(policy)
    assert engine.syncs == syncs


def test_a_detached_agent_samples_from_the_weights_of_its_moment(side_by_side: Pair) -> None:
    policy, agent = side_by_side.policies[CONVERSATION], side_by_side.agents[CONVERSATION]
    detached = agent.detach()
    version, before = policy.version, {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    shake(policy, size=1e-2)
    policy.version += 1
    (completion,) = detached.act([observation()])
    policy.load_state_dict(before)
    assert completion.version == version
    assert completion.prompt_ids
    assert completion.token_ids
    assert completion.logprobs
    expected = trainer_logprobs(policy, completion.prompt_ids, completion.token_ids)
    torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=0, atol=1e-3)


def test_a_detached_agent_whose_weights_are_gone_says_so(side_by_side: Pair) -> None:
    agent = side_by_side.agents[CONVERSATION]
    detached = agent.detach()
    shake(agent.policy)
    agent.act([observation()])
    with pytest.raises(SyncError, match="no longer holds the pinned weights"):
        detached.act([observation()])


def test_roles_that_take_turns_in_an_engine_cannot_be_detached(pair: Pair) -> None:
    with pytest.raises(UsageError, match="one policy at a time"):
        pair.agents[CONVERSATION].detach()


def test_training_plays_the_next_games_during_the_update(side_by_side: Pair, tmp_path: Path) -> None:
    versions = {name: policy.version for name, policy in side_by_side.policies.items()}
    assert train_pair(side_by_side, tmp_path, steps=3, config=LoopConfig(games=4, max_staleness=1))
    assert [line[f"{CONVERSATION}/staleness"] for line in RunFolder(tmp_path).read_metrics()] == [0, 1, 1]
    for step, played in enumerate((0, 0, 1), start=1):
        for game in read_games(RunFolder(tmp_path).games_of_step(step)):
            assert {r.completion.version for r in game.responses} == {versions[CONVERSATION] + played}
            assert {c.completion.version for c in game.critiques} == {versions[FEEDBACK] + played}
