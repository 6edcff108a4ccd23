from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest
import torch

from tests.tiny import tiny_model, tiny_tokenizer
from tests.vllm_stand_in import StandIn
from waltz_env import CONVERSATION, FEEDBACK, Kind, Prompt
from waltz_env.agents import VLLMAgent, VLLMServers, full_policy, lora_policies
from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.errors import AgentError, SyncError, UsageError
from waltz_env.game import Game
from waltz_env.presets.nano.templates import conversation_messages, feedback_messages
from waltz_env.testing import agent_test
from waltz_env.types import AgentID, Completion, Observation

Agents = dict[AgentID, VLLMAgent]
Make = Callable[..., Agents]
TEMPLATES = {CONVERSATION: conversation_messages, FEEDBACK: feedback_messages}


@pytest.fixture
def servers() -> Iterator[list[StandIn]]:
    both = [StandIn(), StandIn()]
    yield both
    for server in both:
        server.die()


def shake(policy: LanguageModelPolicy) -> None:
    """Changes the adapter's weights as an update would."""
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.parameters():
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def pair_of(servers: list[StandIn]) -> Iterator[Make]:
    """Makes a pair on servers, which is closed before these stop."""
    with ExitStack() as stack:

        def make(urls: Sequence[str], **settings: float) -> Agents:
            agents = pair(urls, **settings)
            stack.callback(engine_of(agents).close)
            return agents

        yield make


def pair(urls: Sequence[str], *, temperature: float = 1.0, **settings: float) -> Agents:
    policies = lora_policies(tiny_model(), tiny_tokenizer(), temperature=temperature)
    engine = VLLMServers(
        list(policies.values()),
        urls,
        dtype=torch.float32,
        **{"timeout": 120.0, "patience": 60.0, "retry_after": 0.0, **settings},  # type: ignore[arg-type]
    )
    return {
        name: VLLMAgent(engine, policies[name], template=TEMPLATES[name], max_new_tokens=6, seed=3) for name in policies
    }


def engine_of(agents: Agents) -> VLLMServers:
    engine = agents[CONVERSATION].engine
    assert isinstance(engine, VLLMServers)
    return engine


def observations(count: int = 8, role: AgentID = CONVERSATION) -> list[Observation]:
    games = [Game(Prompt(f"Tell me about {i}.", Kind.BENIGN, id=str(i))) for i in range(count)]
    for game in games if role == FEEDBACK else ():
        game.act(Completion("Yes."))
    return [game.observe(role) for game in games]


def expected_logprobs(policy: LanguageModelPolicy, completion: Completion) -> torch.Tensor:
    assert completion.prompt_ids is not None
    assert completion.token_ids is not None
    ids = torch.tensor([completion.prompt_ids + completion.token_ids])
    keep = len(completion.token_ids) + 1
    with torch.no_grad():
        logits = policy.logits(ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None], keep)[0, :-1]
    return (logits / policy.temperature).log_softmax(-1).gather(-1, ids[0, -keep + 1 :, None]).squeeze(-1)


def alone(count: int = 8, *, shaken: bool = False) -> list[Completion]:
    """What one healthy server gives for the same seeds."""
    server = StandIn()
    agents = pair([server.url])
    if shaken:
        shake(agents[CONVERSATION].policy)
    made = agents[CONVERSATION].act(observations(count))
    engine_of(agents).close()
    server.die()
    return made


def test_they_keep_the_agent_protocol(servers: list[StandIn], pair_of: Make) -> None:
    agents = pair_of([server.url for server in servers])
    for name, agent in agents.items():
        agent_test(agent, roles=[name])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_games_are_spread_and_their_numbers_are_the_policys(
    servers: list[StandIn], pair_of: Make, temperature: float
) -> None:
    agents = pair_of([server.url for server in servers], temperature=temperature)
    policy = agents[CONVERSATION].policy
    shake(policy)
    for completion in agents[CONVERSATION].act(observations()):
        torch.testing.assert_close(
            torch.tensor(completion.logprobs), expected_logprobs(policy, completion), atol=1e-4, rtol=0
        )
    assert all(server.completed >= 2 for server in servers)
    assert sum(server.completed for server in servers) == 8


def test_every_version_has_a_name_of_its_own_and_the_old_one_goes(servers: list[StandIn], pair_of: Make) -> None:
    agents = pair_of([server.url for server in servers])
    engine = engine_of(agents)
    names = []
    for _ in range(3):
        for role, agent in agents.items():
            agent.act(observations(2, role))
            agent.act(observations(2, role))  # nothing changed: nothing is sent
        names.append([set(server.adapters) for server in servers])
        shake(agents[CONVERSATION].policy)
    assert all(len(held) == 2 for version in names for held in version)
    feedback = names[0][0] & names[1][0] & names[2][0]
    assert len(feedback) == 1
    assert len(names[0][0] | names[1][0] | names[2][0]) == 4
    assert engine.syncs == 2 * 4
    assert engine.report is not None
    assert engine.report.arrived == pytest.approx(1, abs=0.01)
    engine.close()
    assert [server.adapters for server in servers] == [{}, {}]


def test_a_server_that_keeps_its_old_weights_is_an_error(servers: list[StandIn], pair_of: Make) -> None:
    agents = pair_of([server.url for server in servers])
    agents[CONVERSATION].act(observations(2))
    shake(agents[CONVERSATION].policy)
    servers[1].deaf = True
    with pytest.raises(SyncError):
        agents[CONVERSATION].act(observations(2))


@pytest.mark.parametrize(("at", "hangs"), [(1, False), (3, False), (2, True)])
def test_what_a_failing_server_leaves_is_played_elsewhere(
    servers: list[StandIn], pair_of: Make, at: int, hangs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    expected = alone(shaken=True)
    agents = pair_of([server.url for server in servers], patience=8.0)
    shake(agents[CONVERSATION].policy)
    servers[0].fails_at, servers[0].wants_to_hang = at, hangs
    made = agents[CONVERSATION].act(observations())
    assert [each.token_ids for each in made] == [each.token_ids for each in expected]
    assert engine_of(agents).in_rotation == [servers[1].url]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"{servers[0].url} " in caplog.text
    assert agents[CONVERSATION].act(observations(2))


def test_a_server_that_comes_back_is_synced_before_it_is_used(servers: list[StandIn], pair_of: Make) -> None:
    agents = pair_of([server.url for server in servers])
    agent = agents[CONVERSATION]
    agent.act(observations())
    servers[0].die()
    agent.act(observations())
    shake(agent.policy)
    servers[0].start()
    before = servers[0].completed
    for completion in agent.act(observations()):
        torch.testing.assert_close(
            torch.tensor(completion.logprobs), expected_logprobs(agent.policy, completion), atol=1e-4, rtol=0
        )
    assert servers[0].completed > before
    assert engine_of(agents).in_rotation == [server.url for server in servers]
    assert servers[0].adapters.keys() == servers[1].adapters.keys()


def test_a_server_that_comes_back_with_another_model_stays_out(
    servers: list[StandIn], pair_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    agents = pair_of([server.url for server in servers])
    servers[0].die()
    agents[CONVERSATION].act(observations())
    servers[0].start(seed=1)
    agents[CONVERSATION].act(observations())
    assert engine_of(agents).in_rotation == [servers[1].url]


def test_without_a_server_the_agent_fails_and_says_why(servers: list[StandIn], pair_of: Make) -> None:
    agents = pair_of([server.url for server in servers])
    for server in servers:
        server.die()
    with pytest.raises(AgentError, match=r"No vLLM server is left.*could not be reached") as raised:
        agents[CONVERSATION].act(observations())
    assert raised.value.kind == "unavailable"
    servers[1].start()
    assert len(agents[CONVERSATION].act(observations())) == 8


def test_pinned_weights_stay_while_the_policy_changes_also_for_a_server_that_comes_back(
    servers: list[StandIn],
    pair_of: Make,
) -> None:
    agents = pair_of([server.url for server in servers])
    agent = agents[CONVERSATION]
    detached = agent.detach()
    expected = alone()
    shake(agent.policy)
    servers[0].die()
    servers[0].start()
    assert [each.token_ids for each in detached.act(observations())] == [each.token_ids for each in expected]
    agent.act(observations(1))
    with pytest.raises(SyncError, match="no longer hold the pinned weights"):
        detached.act(observations(1))


def test_what_cannot_work_is_told_at_the_start(servers: list[StandIn], pair_of: Make) -> None:
    url = servers[0].url
    with pytest.raises(UsageError, match="LoRA adapters"):
        VLLMServers([full_policy(tiny_model(), tiny_tokenizer())], [url])
    servers[1].die()
    with pytest.raises(UsageError, match=rf"{servers[1].url} could not be reached.*Start it, or name other servers"):
        pair_of([url, servers[1].url])
    servers[1].start(seed=1)
    with pytest.raises(SyncError, match="differ by"):
        pair_of([url, servers[1].url])
    servers[0].processed = False
    with pytest.raises(UsageError, match="--logprobs-mode processed_logprobs"):
        pair_of([url], temperature=0.7)
    servers[0].takes_adapters = False
    with pytest.raises(UsageError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        pair_of([url])[CONVERSATION].act(observations(1))
