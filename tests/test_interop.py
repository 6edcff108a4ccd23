"""The game inside other trainers, whose engines are stubs here: what they are asked, and the rows that they get."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.example import load
from tests.games import BOMB, PROCESS, WordJudge
from tests.tiny import END, tiny_tokenizer
from tests.upstream import Json, Upstream, says
from waltz_env.agents import TEMPLATES, OpenAIAgent
from waltz_env.errors import AgentError, JudgeError
from waltz_env.interop import completion_of, play_one, samples_of
from waltz_env.types import CONVERSATION, FEEDBACK, Completion, Judgement, NoVerdict, Observation, Prompt

ADVICE = "Refuse this request."
CRITIQUE = f'{{"reasoning": "harm", "unsafe": true, "overrefuse": false, "feedback": "{ADVICE}"}}'
DRAFT, REVISION = "UNSAFE. First, take a hammer.", "I cannot help with that."
ROLES = (CONVERSATION, FEEDBACK)
TOKENIZER = tiny_tokenizer()
MAX_LENGTH = 9000


def line(read: str) -> str:
    """What a player of either role says to what it reads."""
    if "# Order of work" in read:
        return CRITIQUE
    return REVISION if ADVICE in read else DRAFT


def decoded(ids: Sequence[int]) -> str:
    return str(TOKENIZER.decode(list(ids)))


class Engine:
    """Answers as vLLM does, in the form of MARTI and of OpenRLHF. Token i of an answer has the log-probability -i."""

    def __init__(self) -> None:
        self.generate_async = SimpleNamespace(remote=self.generate)

    async def generate(self, prompt_ids: Sequence[int], sampling_params: Any) -> Any:
        text = line(decoded(prompt_ids))
        ids = TOKENIZER(text + END)["input_ids"]
        logprobs = [{token: SimpleNamespace(logprob=-i), -1: None} for i, token in enumerate(ids)]
        output = SimpleNamespace(
            text=text + END,
            token_ids=ids,
            logprobs=None if sampling_params.logprobs is None else logprobs,
            finish_reason="stop",
        )
        return SimpleNamespace(outputs=[output])


class VerlEngine:
    """Answers as verl's server manager does."""

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: Json) -> Any:
        ids = TOKENIZER(line(decoded(prompt_ids)) + END)["input_ids"]
        return SimpleNamespace(token_ids=ids, log_probs=[-float(i) for i in range(len(ids))])


@pytest.fixture
def partner() -> Iterator[Upstream]:
    """A server that plays either role."""

    def script(body: Json, number: int) -> Any:
        return says(line("\n".join(message["content"] for message in body["messages"])))

    server = Upstream(script)
    yield server
    server.stop()


def check_row(prompt: list[int], sampled: list[int], logprobs: list[float], reward: float) -> str:
    """Check that a row is a whole turn with its reward, and return the turn: f_0, c_0 or c_1.

    The judge finds the draft unsafe and the revision fine, so both labels are right and R_DIR = 1:
    R_f = .65 * 1 * 1 + .25 + .1 = 1.
    """
    read, said = decoded(prompt), decoded(sampled)
    assert read.endswith("<|assistant|>")
    assert said == line(read) + END
    assert logprobs == [-float(i) for i in range(len(sampled))]
    turn, expected = {CRITIQUE: ("f_0", 1.0), DRAFT: ("c_0", 0.0), REVISION: ("c_1", 1.0)}[line(read)]
    assert reward == pytest.approx(expected)
    return turn


def sampling(logprobs: int | None) -> Any:
    return SimpleNamespace(max_tokens=1000, logprobs=logprobs)


def marti_agents(logprobs: int | None) -> list[Json]:
    common = {"llm": Engine(), "tokenizer": TOKENIZER, "sampling_params": sampling(logprobs)}
    return [{"agent_id": str(i), "agent_role": role, **common} for i, role in enumerate(ROLES)]


def test_marti_gets_one_row_per_agent_and_game() -> None:
    example = load("marti_waltz")
    seats = [
        {
            "agent_id": str(i),
            "agent_role": role,
            "llm": Engine(),
            "tokenizer": TOKENIZER,
            "sampling_params": sampling(1),
        }
        for i, role in enumerate(ROLES)
    ]
    random.seed(0)
    turns = set()
    for _ in range(8):
        result = asyncio.run(
            example.workflow(BOMB.text, "harmful", seats, None, max_length=MAX_LENGTH, metadata={}, workflow_args={})
        )
        assert [row["agent_role"] for row in result["trajectory"]] == list(ROLES)
        assert [row["agent_index"] for row in result["trajectory"]] == [0, 1]
        assert result["final_reward"] == 1.0
        assert result["reward_matrix"] == [[row["reward"]] for row in result["trajectory"]]
        for row in result["trajectory"]:
            sampled = row["output_ids"]
            prompt = row["sequence_ids"][: -len(sampled)]
            assert row["sequence_ids"] == prompt + sampled
            assert row["agent_input"] == TOKENIZER.decode(prompt)
            assert row["agent_output"] + END == TOKENIZER.decode(sampled)
            assert row["rollout_log_prob"][: len(prompt)] == [0.0] * len(prompt)
            turn = check_row(prompt, sampled, row["rollout_log_prob"][len(prompt) :], row["reward"])
            turns.add((row["agent_index"], row["turn_id"], turn))
    assert turns == {(0, 0, "c_0"), (0, 1, "c_1"), (1, 0, "f_0")}


def test_marti_s_rows_have_no_log_probabilities_where_it_asks_for_none_and_stand_prompt_by_prompt() -> None:
    example = load("marti_waltz")
    seats = [
        {
            "agent_id": str(i),
            "agent_role": role,
            "llm": Engine(),
            "tokenizer": TOKENIZER,
            "sampling_params": sampling(None),
        }
        for i, role in enumerate(ROLES)
    ]
    result = asyncio.run(example.workflow(BOMB.text, "harmful", seats, max_length=MAX_LENGTH))
    assert [row["rollout_log_prob"] for row in result["trajectory"]] == [None, None]
    mixed = [{"prompt": text, "n": n} for n, text in enumerate("abab")]
    assert [game["n"] for game in example.processor(mixed, 2, None)] == [0, 2, 1, 3]


def stub(monkeypatch: pytest.MonkeyPatch, name: str, **members: object) -> None:
    """A module with these members in the place of a library that is not installed."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), ModuleType(".".join(parts[:i])))
    vars(sys.modules[name]).update(members)


class AgentLoopBase:
    """What verl 0.9's class of that name keeps of its arguments, as far as the example reads it."""

    def __init__(self, **settings: Any) -> None:
        vars(self).update(settings)


@pytest.mark.parametrize(("trained", "turns"), [(FEEDBACK, {"f_0"}), (CONVERSATION, {"c_0", "c_1"})])
def test_verl_gets_a_row_of_the_trained_agent(
    trained: str, turns: set[str], partner: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"AgentLoopOutput": SimpleNamespace, "AgentLoopMetrics": dict, "register": lambda name: lambda loop: loop}
    stub(monkeypatch, "verl.experimental.agent_loop.agent_loop", AgentLoopBase=AgentLoopBase, **names)
    example = load("verl_waltz")
    other = FEEDBACK if trained == CONVERSATION else CONVERSATION
    monkeypatch.setattr(example, "TRAINED", trained)
    monkeypatch.setattr(example, "OTHER", other)
    monkeypatch.setattr(example, "PARTNER", OpenAIAgent("m", TEMPLATES[other], server=partner.client()))
    lengths = SimpleNamespace(prompt_length=MAX_LENGTH, response_length=1000)
    loop = example.WaltzLoop(tokenizer=TOKENIZER, server_manager=VerlEngine(), rollout_config=lengths)
    data = {"raw_prompt": [{"role": "user", "content": BOMB.text}], "reward_model": {"ground_truth": "harmful"}}
    random.seed(0)
    found = set()
    for _ in range(8):
        row = asyncio.run(loop.run({"temperature": 1.0}, **data))
        assert row.response_mask == [1] * len(row.response_ids)
        found.add(check_row(row.prompt_ids, row.response_ids, row.response_logprobs, row.reward_score))
    assert found == turns


@pytest.mark.parametrize(("trained", "turns"), [(FEEDBACK, {"f_0"}), (CONVERSATION, {"c_0", "c_1"})])
def test_openrlhf_gets_a_row_of_the_trained_agent(
    trained: str, turns: set[str], partner: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(monkeypatch, "openrlhf.utils.agent", AgentExecutorBase=object)
    example = load("openrlhf_waltz")
    other = FEEDBACK if trained == CONVERSATION else CONVERSATION
    monkeypatch.setattr(example, "TRAINED", trained)
    monkeypatch.setattr(example, "OTHER", other)
    monkeypatch.setattr(example, "PARTNER", OpenAIAgent("m", TEMPLATES[other], server=partner.client()))
    random.seed(0)
    found = set()
    for _ in range(8):
        row = asyncio.run(
            example.AgentExecutor().execute(
                prompt=BOMB.text,
                label="harmful",
                sampling_params=sampling(1),
                max_length=MAX_LENGTH,
                hf_tokenizer=TOKENIZER,
                llm_engine=Engine(),
            )
        )
        ((start, end),) = row["action_ranges"]
        assert row["rollout_log_probs"][:start] == [0.0] * start
        tokens = row["observation_tokens"]
        assert end == len(tokens)
        assert row["scores"] == row["reward"]
        found.add(check_row(tokens[:start], tokens[start:], row["rollout_log_probs"][start:], row["reward"]))
    assert found == turns


class Silent:
    """A judge that has no verdict on the second response of a batch."""

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement | NoVerdict]:
        judged: list[Judgement | NoVerdict] = [*WordJudge().judge(prompts, responses)]
        return judged[:1] + [NoVerdict("asleep")] * len(judged[1:])


async def speak(observation: Observation) -> Completion:
    return Completion(CRITIQUE if observation["agent"] == FEEDBACK else DRAFT)


def test_a_game_without_a_verdict_is_not_scored() -> None:
    with pytest.raises(JudgeError, match="asleep"):
        asyncio.run(play_one(BOMB, dict.fromkeys(ROLES, speak), judge=Silent()))


def test_what_goes_wrong_in_a_trainer_reaches_it() -> None:
    async def fails(observation: Observation) -> Completion:
        raise AgentError("no engine")

    with pytest.raises(AgentError, match="no engine"):
        asyncio.run(play_one(PROCESS, {CONVERSATION: speak, FEEDBACK: fails}, judge=WordJudge()))


def test_every_action_has_its_reward() -> None:
    """Both responses are unsafe, so the right labels earn .25 + .1 and no improvement."""
    game, rewards = asyncio.run(play_one(BOMB, dict.fromkeys(ROLES, speak), judge=WordJudge()))
    assert samples_of(CONVERSATION, game, rewards=rewards) == [(Completion(DRAFT), 0.0)] * 2
    ((critique, reward),) = samples_of(FEEDBACK, game, rewards=rewards)
    assert critique == Completion(CRITIQUE)
    assert reward == pytest.approx(0.35)


@pytest.mark.parametrize(("reason", "finish"), [("stop", "stop"), ("length", "length"), (None, "stop")])
def test_a_completion_of_vllm_keeps_its_ids_and_says_whether_it_was_cut(reason: str | None, finish: str) -> None:
    ids = TOKENIZER("ok" + END)["input_ids"]
    output = SimpleNamespace(token_ids=ids, logprobs=None, finish_reason=reason)
    found = completion_of(output, [1, 2], tokenizer=TOKENIZER)
    assert found == Completion("ok", finish=finish, prompt_ids=(1, 2), token_ids=tuple(ids))  # type: ignore[arg-type]
