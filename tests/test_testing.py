from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.games import SAFE, RandomSpeaker, WordJudge
from waltz_env.errors import UnreadablePromptError
from waltz_env.judges import RuleJudge
from waltz_env.testing import agent_test, judge_test
from waltz_env.types import CONVERSATION, Completion, Judgement, Labels, Observation, Prompt


class Agent:
    """Answers with what a function makes of the observations."""

    def __init__(self, act: Callable[[Sequence[Observation]], Any]) -> None:
        self.act = act


class Judge:
    """Judges as a function does."""

    def __init__(self, judge: Callable[[Sequence[Prompt], Sequence[str]], Any]) -> None:
        self.judge = judge


def same(completion: Any) -> Agent:
    return Agent(lambda observations: [completion for _ in observations])


GOOD = Completion("hi", prompt_ids=(1,), token_ids=(2, 3), logprobs=(-0.5, 0.0))


def broken(**fields: Any) -> Agent:
    return same(replace(GOOD, **fields))


def test_agents_that_keep_the_protocol_pass() -> None:
    agent_test(RandomSpeaker(0), deterministic=True)
    agent_test(same(GOOD))


def _mutating(observations: Sequence[Observation]) -> list[Completion]:
    for observation in observations:
        observation["prompt"] += "!"
    return [GOOD for _ in observations]


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        (Agent(lambda observations: [GOOD]), r"act\(\[\]\) must give no completions"),
        (Agent(lambda observations: [GOOD] if observations else []), "for each of 6 observations; got 1"),
        (same("hi"), "must give Completion objects; got 'hi'"),
        (broken(text=None), "text must be a string; got None"),
        (broken(finish="eos"), r"`finish` must be one of .*; got 'eos'"),
        (broken(prompt_ids=[1]), r"`prompt_ids` must be None or a tuple of int; got \[1\]"),
        (broken(token_ids=(1.0, 2.0)), "`token_ids` must be None or a tuple of int"),
        (broken(logprobs=(-0.5,)), "one log-probability for each token; got 1 for 2"),
        (broken(logprobs=(-0.5, 0.5)), "finite floats, at most 0"),
        (broken(logprobs=(-0.5, float("-inf"))), "finite floats, at most 0"),
        (broken(token_ids=None), "with `logprobs` must have `token_ids`"),
        (Agent(_mutating), "must leave its observations as they were"),
    ],
)
def test_an_agent_that_breaks_the_protocol_is_told_how(agent: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        agent_test(agent)


def test_an_agent_that_mixes_up_the_order_is_found() -> None:
    def reversing(observations: Sequence[Observation]) -> list[Completion]:
        return [Completion(o["prompt"]) for o in reversed(observations)]

    with pytest.raises(AssertionError, match="one by one, in order"):
        agent_test(Agent(reversing), deterministic=True)


def test_an_agent_that_stumbles_over_lone_surrogates_is_found() -> None:
    def encoding(observations: Sequence[Observation]) -> list[Completion]:
        return [Completion(str(o["prompt"].encode())) for o in observations]

    with pytest.raises(UnicodeEncodeError):
        agent_test(Agent(encoding))


def test_an_agent_of_one_role_is_checked_in_that_role() -> None:
    def conversation_only(observations: Sequence[Observation]) -> list[Completion]:
        assert all(o["agent"] == CONVERSATION for o in observations), "not my role"
        return [GOOD for _ in observations]

    agent_test(Agent(conversation_only), roles=[CONVERSATION])
    with pytest.raises(AssertionError, match="not my role"):
        agent_test(Agent(conversation_only))


@pytest.mark.parametrize("judge", [RuleJudge(), WordJudge()])
def test_judges_that_keep_the_protocol_pass(judge: Any) -> None:
    judge_test(judge)


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (Judge(lambda prompts, responses: [Judgement(SAFE, "x")]), r"judge\(\[\], \[\]\) must give no judgements"),
        (Judge(lambda prompts, responses: [Judgement(SAFE, "x")][: len(prompts)]), "for each of 24 responses; got 1"),
        (Judge(lambda prompts, responses: [SAFE for _ in prompts]), "must give Judgement objects"),
        (Judge(lambda prompts, responses: [Judgement((0, 0), "x") for _ in prompts]), "must be Labels"),  # type: ignore[arg-type]
        (
            Judge(lambda prompts, responses: [Judgement(Labels(unsafe=0, overrefuse=False), "x") for _ in prompts]),  # type: ignore[arg-type]
            "`unsafe` must be a bool; got 0",
        ),
        (
            Judge(lambda prompts, responses: WordJudge().judge(prompts, ["UNSAFE", *responses[1:]]) if prompts else []),
            "one by one, in order",
        ),
    ],
)
def test_a_judge_that_breaks_the_protocol_is_told_how(judge: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        judge_test(judge)


def test_a_judge_that_is_not_deterministic_can_say_so() -> None:
    calls = iter(range(10**6))

    def wavering(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
        unsafe = next(calls) % 2 == 0
        return [Judgement(Labels(unsafe, False), "x") for _ in prompts]

    judge_test(Judge(wavering), deterministic=False)
    with pytest.raises(AssertionError, match="one by one"):
        judge_test(Judge(wavering))


class SmallContext(Agent):
    """Reads short texts alone, and says so by the error that the protocol has for it."""

    def __init__(self, *, rows: bool) -> None:
        super().__init__(self._act)
        self.rows = rows

    def _act(self, observations: Sequence[Observation]) -> list[Completion]:
        rows = [row for row, seen in enumerate(observations) if len(seen["prompt"]) > 1000]
        if rows:
            raise UnreadablePromptError("Too long.", kind="too_long", rows=rows if self.rows else ())
        return [GOOD for _ in observations]


def test_an_agent_may_name_what_its_model_cannot_read() -> None:
    agent_test(SmallContext(rows=True))
    with pytest.raises(AssertionError, match="must name the rows"):
        agent_test(SmallContext(rows=False))
