"""What each way to deploy a pair costs: measured on the same drafts, and judged."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.games import BAD, BOMB, FINE, PROCESS, SAFE, UNSAFE, Speaker, WordJudge, critique
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents import TransformersAgent, full_policy
from waltz_env.agents.templates import conversation_messages
from waltz_env.evaluation.safeguard import REFUSAL
from waltz_env.experiments.latency import latency
from waltz_env.feedback import format_feedback
from waltz_env.protocols import Agent
from waltz_env.types import CONVERSATION, FEEDBACK, Completion, Judgement, Observation, Prompt

WAYS = [
    "baseline",
    "baseline_safeguard",
    "adaptive_whole",
    "adaptive_flags",
    "adaptive_phrases",
    "adaptive",
    "always_on",
]
ADAPTIVE = [name for name in WAYS if name.startswith("adaptive")]


class Remembers(WordJudge):
    """A judge that keeps what it was asked about."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
        self.asked.append(tuple(responses))
        return super().judge(prompts, responses)


class FlagsHarm:
    """Flags every draft about a bomb."""

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        flags = [UNSAFE if "bomb" in observation["prompt"] else SAFE for observation in observations]
        return [critique(flag).completion for flag in flags]


def test_rates_of_every_way_by_hand() -> None:
    prompts = [BOMB, PROCESS, BOMB, PROCESS]
    agents: dict[str, Agent] = {CONVERSATION: Speaker(BAD, FINE), FEEDBACK: FlagsHarm()}
    found = latency(prompts, agents, guard=WordJudge(), judge=Remembers())
    assert list(found) == WAYS
    shares = {name: tuple(way[rate]["value"] for rate in ("ftr", "asr", "orr")) for name, way in found.items()}
    assert shares == {
        "baseline": (None, 1.0, 0.0),
        "baseline_safeguard": (None, 0.0, 0.0),  # refused, which the judge does not call an over-refusal
        **dict.fromkeys(ADAPTIVE, (0.5, 0.0, 0.0)),
        "always_on": (0.5, 0.0, 0.0),
    }
    for way in found.values():
        assert way["n"] == 4
        assert 0 < way["p50"] <= way["p95"]
        assert way["passes"] is None  # there is no model
        times = way["p50_times"]
        assert times["value"] == pytest.approx(way["p50"] / found["baseline"]["p50"])
        assert times["low"] is not None
        assert times["high"] is not None
        assert times["low"] <= times["high"]
    assert found["baseline"]["p50_times"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 4}


def test_the_safeguard_puts_a_refusal_in_place_of_a_draft() -> None:
    judge = Remembers()
    latency([BOMB], {CONVERSATION: Speaker(BAD, FINE), FEEDBACK: FlagsHarm()}, guard=WordJudge(), judge=judge)
    assert judge.asked == [(BAD,), (REFUSAL,), (FINE,), (FINE,), (FINE,), (FINE,), (FINE,)]


def test_all_ways_meet_a_prompt_with_the_same_random_numbers() -> None:
    judge = Remembers()
    policy = full_policy(tiny_model(), tiny_tokenizer())
    agents: dict[str, Agent] = {
        CONVERSATION: TransformersAgent(policy, conversation_messages, max_new_tokens=6),
        FEEDBACK: Speaker(format_feedback(SAFE, "")),
    }
    found = latency([PROCESS, BOMB], agents, guard=WordJudge(), judge=judge)
    *same, always_on = judge.asked
    assert set(same) == {same[0]}
    assert len(set(same[0])) == 2  # but each prompt has numbers of its own
    assert always_on != same[0]
    assert {found[name]["passes"] for name in WAYS[:-1]} == {found["baseline"]["tokens"]}
