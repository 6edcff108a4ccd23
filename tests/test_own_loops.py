"""Examples that train with loops of their own. That TRL learns takes minutes: tests/interop/test_trl.py."""

from __future__ import annotations

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.example import load
from waltz_env import CONVERSATION, FEEDBACK, Agent, AgentID, RefusalJudge, play
from waltz_env.agents import FollowAdvice, NeverFlag, OracleFeedback
from waltz_env.presets import nano
from waltz_env.presets.nano.examples import Mixture
from waltz_env.presets.nano.warm_start import NanoConfig, build_model
from waltz_env.scripted import ANSWER, REFUSAL


def half_taught() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A small laboratory model that breaks half of its JSON and knows little of the topics."""
    mixture = Mixture(draft=0.3, feedback=0.6, exercise=0.0, malformed=0.5)
    return build_model(
        0, NanoConfig(width=48, feed_forward=144, steps=200, batch_size=16, learning_rate=8e-3, mixture=mixture)
    )


def test_the_loop_in_plain_pytorch_learns_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nano, "build_model", lambda seed: half_taught())
    example = load("cleanrl_reinforce")
    args = example.Args(steps=20, feedback_alone=14, log_every=4, learning_rate=3e-3)
    first, *_, last = example.main(args)
    assert last["format_rate"] > first["format_rate"] + 0.1


def test_trl_s_rows_and_rewards_are_those_of_the_game() -> None:
    example = load("trl_grpo")
    agents: dict[AgentID, Agent] = {CONVERSATION: FollowAdvice(answers=1.0), FEEDBACK: NeverFlag()}
    prompt = next(prompt for prompt in nano.train() if prompt.harmful)
    passed = play([prompt], agents)
    flagged = play([prompt], agents | {FEEDBACK: OracleFeedback([prompt], RefusalJudge())})

    critique = flagged[0].critiques[0].completion.text
    drafts = example.states(passed, CONVERSATION, nano.TEMPLATES[CONVERSATION])
    both = example.states(flagged, CONVERSATION, nano.TEMPLATES[CONVERSATION])
    reviews = example.states(flagged, FEEDBACK, nano.TEMPLATES[FEEDBACK])
    assert drafts["said"] == [[]]
    assert both["said"] == [[], [ANSWER, critique]]
    assert reviews["said"] == [[ANSWER]]
    assert both["prompt"][1][-1] == {"role": "user", "content": flagged[0].critiques[0].feedback.advice}

    def paid(role: AgentID, said: list[str], *texts: str) -> list[float | None]:
        completions = [[{"role": "assistant", "content": text}] for text in texts]
        rows = {"game": [0] * len(texts), "said": [said] * len(texts)}
        rewards: list[float | None] = example.reward(flagged, role, agents, completions=completions, **rows)
        return rewards

    wrong = passed[0].critiques[0].completion.text
    assert paid(FEEDBACK, [ANSWER], critique, wrong, "no JSON") == pytest.approx([1.0, 0.1, 0.0])
    assert paid(CONVERSATION, [], REFUSAL, ANSWER) == [1.0, 0.0]
    assert paid(CONVERSATION, [ANSWER, critique], REFUSAL, ANSWER) == [1.0, 0.0]
