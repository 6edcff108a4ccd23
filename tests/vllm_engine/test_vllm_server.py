"""vLLM's own OpenAI server on loopback, asked by ``OpenAIAgent``: both roles, with ids and log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from tests.vllm_engine.conftest import SERVED, TEMPLATES, Pair
from waltz_env import CONVERSATION, FEEDBACK, Kind, Prompt
from waltz_env.agents.openai_agent import OpenAIAgent
from waltz_env.agents.prompt_encoder import PromptEncoder
from waltz_env.algorithms.training.samples import samples
from waltz_env.feedback import JSON_SCHEMA, parse_feedback
from waltz_env.game import Game
from waltz_env.judges import RefusalJudge
from waltz_env.rewards import SETUP_B
from waltz_env.rollout import play
from waltz_env.server_client import ServerClient
from waltz_env.testing import agent_test
from waltz_env.types import AgentID, Message, Observation

PROMPTS = [Prompt(f"Tell me about {thing}.", Kind.BENIGN, id=thing) for thing in ("rain", "bread", "trains")]


def short(role: AgentID, observation: Observation) -> list[Message]:
    """A template that makes texts of any length fit the server's context, which no server does by itself."""
    return [{**message, "content": message["content"][:1000]} for message in TEMPLATES[role](observation)]


def asking(server: str, role: AgentID, **settings: Any) -> closing[OpenAIAgent]:
    client = ServerClient(server, api_key="none", timeout=300.0)
    settings = {"max_tokens": 12, "seed": 1, **settings}
    return closing(OpenAIAgent(SERVED, partial(short, role), server=client, **settings))


@pytest.fixture
def agents(server: str) -> Iterator[dict[AgentID, OpenAIAgent]]:
    with (
        asking(server, CONVERSATION, token_ids=True) as conversation,
        asking(server, FEEDBACK, token_ids=True) as feedback,
    ):
        yield {CONVERSATION: conversation, FEEDBACK: feedback}


@pytest.mark.parametrize("role", [CONVERSATION, FEEDBACK])
def test_it_keeps_the_agent_protocol(agents: dict[AgentID, OpenAIAgent], role: AgentID) -> None:
    agent_test(agents[role], roles=[role])


def test_its_ids_and_log_probabilities_are_those_of_the_model(agents: dict[AgentID, OpenAIAgent], pair: Pair) -> None:
    policy = pair.policies[CONVERSATION]
    observations = [Game(prompt).observe(CONVERSATION) for prompt in PROMPTS]
    prompts = PromptEncoder(policy.tokenizer, TEMPLATES[CONVERSATION], max_tokens=4096).encode(observations)
    for completion, prompt in zip(agents[CONVERSATION].act(observations), prompts, strict=True):
        assert completion.prompt_ids == tuple(prompt)
        assert completion.token_ids
        assert completion.logprobs
        assert policy.tokenizer.decode(list(completion.token_ids), skip_special_tokens=True) == completion.text
        ids = torch.tensor([completion.prompt_ids + completion.token_ids])
        with torch.no_grad():
            positions = torch.arange(ids.shape[1])[None]
            keep = len(completion.token_ids) + 1
            logits = policy.logits(ids, torch.ones_like(ids), positions, keep, reference=True)  # the base is served
        expected = logits[0, :-1].log_softmax(-1).gather(-1, ids[0, -keep + 1 :, None]).squeeze(-1)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=0, atol=1e-3)


def test_a_learner_takes_its_rows(agents: dict[AgentID, OpenAIAgent]) -> None:
    games = play(PROMPTS, agents, judge=RefusalJudge())
    for name in agents:
        rows = samples(games, name, weights=SETUP_B, rng=np.random.default_rng(0))
        assert [len(row.token_ids) for row in rows] == [len(row.logprobs) for row in rows]
        assert len(rows) == len(PROMPTS)


def test_feedback_by_schema_is_well_formed(server: str, agents: dict[AgentID, OpenAIAgent]) -> None:
    with asking(server, FEEDBACK, max_tokens=300, json_schema=JSON_SCHEMA) as constrained:
        games = play(PROMPTS, {**agents, FEEDBACK: constrained}, judge=RefusalJudge())
    whole = [game.critiques[0].completion for game in games if not game.critiques[0].completion.truncated]
    assert whole
    assert all(parse_feedback(completion.text).well_formed for completion in whole)
