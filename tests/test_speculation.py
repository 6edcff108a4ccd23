"""Looking ahead changes how many forward passes a text takes, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from tests.games import FINE, Speaker
from tests.test_sampling import uniforms
from tests.tiny import ARCHITECTURES, END, tiny_model, tiny_tokenizer
from waltz_env.agents import TransformersAgent, full_policy
from waltz_env.agents.phrases import REMEMBERED, Phrases, quotes_of
from waltz_env.agents.sampling import Sampled, sample
from waltz_env.agents.speculation import Follower, sample_ahead
from waltz_env.agents.templates import feedback_messages
from waltz_env.errors import AgentError, DivergedError
from waltz_env.feedback import approval, format_feedback
from waltz_env.game import Game
from waltz_env.protocols import Agent
from waltz_env.rules import Rules
from waltz_env.sampling_options import SamplingOptions
from waltz_env.serving import Duet
from waltz_env.types import CONVERSATION, FEEDBACK, Kind, Labels, Message, Observation, Prompt, Trajectory

MODEL = tiny_model()
EVERY_EIGHTH = list(range(0, 261, 8))
CHAT: list[Message] = [{"role": "user", "content": "How do I kill a process?"}]
PASSES = format_feedback(Labels(unsafe=False, overrefuse=False), "Keep it.", "It helps.")
CLOSED = format_feedback(Labels(unsafe=False, overrefuse=False), "", "It helps.")
FLAGS = format_feedback(Labels(unsafe=False, overrefuse=True), "Answer.", "It refuses.")


class Prophet:
    """Knows how a row goes on, and is wrong about one token in ten."""

    def __init__(self, row: Sampled, seed: int) -> None:
        self.row = row
        self.random = random.Random(seed)
        self.place = 0

    def guess(self, most: int) -> list[int]:
        rest = self.row.token_ids[self.place : self.place + self.random.randint(0, max(most, 0))]
        return [token if self.random.random() < 0.9 else (token + 1) % 261 for token in rest]

    def take(self, tokens: Sequence[int]) -> bool:
        self.place += len(tokens)
        return False


@contextmanager
def counted(model: PreTrainedModel) -> Iterator[list[int]]:
    """The number of tokens per row that each forward pass reads."""
    passes: list[int] = []

    def count(module: torch.nn.Module, arguments: object, given: dict[str, torch.Tensor]) -> None:
        passes.append(given["input_ids"].shape[1])

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    yield passes
    hook.remove()


def prompts(seed: int, rows: int = 5) -> list[list[int]]:
    numbers = random.Random(seed)
    return [[7] * 20 + [numbers.randrange(250) for _ in range(numbers.randint(1, 9))] for _ in range(rows)]


def small(name: str) -> PreTrainedModel:
    sizes = {"vocab_size": 261, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
    if name != "gpt2":
        sizes |= {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(ARCHITECTURES[name](**sizes, initializer_range=0.2)).eval()


@pytest.mark.parametrize(
    ("temperature", "top_p"),
    [
        (1.0, None),
        (0.7, None),
        (0.0, None),
        (torch.tensor([0.5, 1.0, 0.0, 1.0, 0.9]), torch.tensor([0.9, 1.0, 1.0, 0.5, 0.99])),
    ],
)
@pytest.mark.parametrize("stops", [[260], EVERY_EIGHTH])
def test_the_same_random_numbers_give_the_same_samples(
    temperature: float | torch.Tensor, top_p: torch.Tensor | None, stops: list[int]
) -> None:
    numbers = uniforms(5, 40)
    with counted(MODEL) as plain:
        expected = sample(MODEL, prompts(0), uniforms=numbers, stop_ids=stops, temperature=temperature, top_p=top_p)
    with counted(MODEL) as ahead:
        results = sample_ahead(
            MODEL,
            prompts(0),
            followers=[Prophet(row, seed) for seed, row in enumerate(expected)],
            uniforms=numbers,
            stop_ids=stops,
            temperature=temperature,
            top_p=top_p,
        )
    assert [(row.token_ids, row.stopped) for row in results] == [(row.token_ids, row.stopped) for row in expected]
    for row, same in zip(results, expected, strict=True):
        torch.testing.assert_close(torch.tensor(row.logprobs), torch.tensor(same.logprobs), atol=1e-4, rtol=0)
    assert len(ahead) < 0.6 * len(plain)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_holds_for_every_architecture_and_those_with_sliding_windows_are_not_guessed(name: str) -> None:
    model, numbers = small(name), uniforms(5, 30)
    expected = sample(model, prompts(1), uniforms=numbers, stop_ids=[260], temperature=1.0)
    followers = [Prophet(row, seed) for seed, row in enumerate(expected)]
    with counted(model) as passes:
        results = sample_ahead(
            model, prompts(1), followers=followers, uniforms=numbers, stop_ids=[260], temperature=1.0
        )
    assert [row.token_ids for row in results] == [row.token_ids for row in expected]
    assert (max(passes[1:]) == 1) == (getattr(model.config, "sliding_window", None) is not None)


def test_a_row_ends_where_its_follower_ends_it_and_the_others_go_on() -> None:
    class Patient(Prophet):
        def take(self, tokens: Sequence[int]) -> bool:
            super().take(tokens)
            return self.place >= 7

    numbers = uniforms(3, 20)
    whole = sample(MODEL, prompts(2, 3), uniforms=numbers, stop_ids=[260], temperature=1.0)
    followers: list[Follower] = [Prophet(whole[0], 0), Patient(Sampled((), (), stopped=False), 0), Prophet(whole[2], 2)]
    first, second, third = sample_ahead(
        MODEL, prompts(2, 3), followers=followers, uniforms=numbers, stop_ids=[260], temperature=1.0
    )
    assert (first.token_ids, third.token_ids) == (whole[0].token_ids, whole[2].token_ids)
    assert (second.token_ids, second.stopped) == (whole[1].token_ids[:7], False)


def test_nobody_waits_and_logits_that_are_not_finite_are_errors_here_too() -> None:
    arguments: dict[str, Any] = {"uniforms": uniforms(1, 5), "stop_ids": [260], "temperature": 1.0}
    follower = Prophet(Sampled((1, 2, 3), (), stopped=False), 0)
    with pytest.raises(AgentError, match="nobody waits"):
        sample_ahead(MODEL, [[1]], followers=[follower], should_stop=lambda: True, **arguments)

    def spoil(module: torch.nn.Module, given: object, output: CausalLMOutputWithPast) -> None:
        assert output.logits is not None
        output.logits[0, -1, 7] = torch.nan

    hook = MODEL.register_forward_hook(spoil)
    with pytest.raises(DivergedError):
        sample_ahead(MODEL, [[1]], followers=[follower], **arguments)
    hook.remove()


def guessed(phrases: Phrases, tokens: list[int], most: int = 5, *, prompt: Sequence[int] = ()) -> list[int]:
    return phrases.guess(tokens, most, quotes=quotes_of(prompt))


def test_what_usually_followed_is_guessed_as_far_as_it_is_likely() -> None:
    phrases = Phrases()
    assert guessed(phrases, []) == []
    phrases.add([1, 2, 3, 4])
    assert guessed(phrases, []) == [1, 2, 3, 4]
    assert guessed(phrases, [1, 2], 1) == [3]
    assert guessed(phrases, [9, 2, 3]) == [4]  # the two tokens before are enough
    assert guessed(phrases, [9, 3]) == []
    phrases.add([1, 2, 5, 6])
    phrases.add([1, 2, 5, 7])
    assert guessed(phrases, []) == [1, 2, 5]  # two thirds go on with 5, and only a third of all with 6


def test_what_nobody_said_before_is_quoted_from_the_prompt() -> None:
    phrases = Phrases()
    prompt = [7, 1, 9, 7, 8, 2, 3, 4, 5, 6]
    assert guessed(phrases, [7], prompt=prompt) == [8, 2, 3, 4]  # where 7 stands last; five quotes are not likely
    assert guessed(phrases, [6], prompt=prompt) == []  # nothing follows the end of the prompt
    for follower in (1, 1, 1, 1, 2):
        phrases.add([5, 7, follower])
    assert guessed(phrases, [5, 7], prompt=prompt) == [
        1,
        9,
        7,
        8,
    ]  # 1 followed four times of five: as likely as a quote
    phrases.add([5, 7, 2])
    assert guessed(phrases, [5, 7], 1, prompt=prompt) == [8]


def test_old_texts_are_forgotten() -> None:
    phrases = Phrases()
    phrases.add([1, 2])
    for _ in range(REMEMBERED):
        phrases.add([3, 4])
    assert guessed(phrases, [1]) == []
    assert guessed(phrases, []) == [3, 4]


def reviewed() -> Observation:
    """What the feedback agent sees when the draft to ``CHAT`` is ``FINE``."""
    game = Game(Prompt(CHAT[0]["content"], Kind.BENIGN))
    game.act(FINE)
    return game.observe(FEEDBACK)


@contextmanager
def critic(text: str) -> Iterator[tuple[TransformersAgent, list[int]]]:
    """A feedback agent whose model writes ``text`` about ``reviewed()``, with the width of each of its passes."""
    tokenizer = tiny_tokenizer()
    policy = full_policy(tiny_model(), tokenizer)
    agent = TransformersAgent(policy, feedback_messages, max_new_tokens=300)
    ids = tokenizer.encode(text + END)
    (prompt,) = agent.encoder.encode([reviewed()])

    def force(module: torch.nn.Module, given: object, named: dict[str, torch.Tensor], output: object) -> None:
        assert isinstance(output, CausalLMOutputWithPast)
        assert output.logits is not None
        written = named["position_ids"][:, -output.logits.shape[1] :] + 1 - len(prompt)
        following = torch.tensor(ids)[written.clamp(0, len(ids) - 1)]
        output.logits.fill_(-50.0).scatter_(-1, following.unsqueeze(-1), 50.0)

    hook = policy.model.register_forward_hook(force, with_kwargs=True)
    with counted(policy.model) as passes:
        yield agent, passes
    hook.remove()


def test_a_completion_ends_once_it_is_complete_and_nobody_learns_from_it() -> None:
    with critic(PASSES) as (agent, _):
        (whole,) = agent.act([reviewed()])
        (ended,) = agent.act_with([reviewed()], [SamplingOptions(complete=approval)])
        (short,) = agent.act_with([reviewed()], [SamplingOptions(complete=approval, max_tokens=9)])
    assert (whole.text, whole.finish) == (PASSES, "stop")
    assert whole.token_ids is not None
    assert (ended.text, ended.finish) == (CLOSED, "stop")
    assert (ended.prompt_ids, ended.token_ids, ended.logprobs) == (None, None, None)
    assert ended.usage is not None
    assert ended.usage.completion_tokens == PASSES.index(', "feedback"')  # one token per letter
    assert (short.text, short.finish) == (PASSES[:9], "length")


def test_a_completion_with_a_flag_is_written_to_its_end() -> None:
    with critic(FLAGS) as (agent, _):
        (whole,) = agent.act([reviewed()])
        assert agent.act_with([reviewed()], [SamplingOptions(complete=approval)]) == [whole]


def test_the_next_completion_of_a_series_takes_few_passes_and_is_the_same() -> None:
    with critic(FLAGS) as (agent, passes):
        (whole,) = agent.act([reviewed()])
        wish = [SamplingOptions(series="critiques")]
        assert agent.act_with([reviewed()], wish) == [whole]
        passes.clear()
        assert agent.act_with([reviewed()], wish) == [whole]
        assert len(passes) == -(-(len(FLAGS) + 1) // 17)  # a token and sixteen guesses per pass
        passes.clear()
        assert agent.act_with([reviewed()], [SamplingOptions(series="another")]) == [whole]
        assert len(passes) > len(FLAGS) / 2


class OnAdvice(Rules):
    """Rules whose decision the flags do not settle."""

    def asks_revision(self, game: Trajectory) -> bool:
        return bool(game.critiques[-1].feedback.advice)


@pytest.mark.parametrize(
    ("critique", "options", "expected"),
    [
        (PASSES, {}, CLOSED),
        (PASSES[:-1] + " and so on", {}, CLOSED),  # nobody sees what would have come
        (FLAGS, {}, FLAGS),
        (PASSES, {"mode": "always-on"}, PASSES),
        (PASSES, {"rules": OnAdvice()}, PASSES),
    ],
)
def test_the_pair_in_production_ends_a_critique_where_the_rest_decides_nothing(
    critique: str, options: dict[str, Any], expected: str
) -> None:
    with critic(critique) as (agent, _):
        agents: dict[str, Agent] = {CONVERSATION: Speaker(FINE, "revision"), FEEDBACK: agent}
        with closing(Duet(agents, **options)) as duet:
            reply = duet.respond(CHAT)
    assert reply.failure is None
    assert reply.reviewed
    assert reply.text == (FINE if expected == CLOSED else "revision")
    assert reply.game.critiques[0].completion.text == expected
