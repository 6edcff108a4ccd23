"""The laboratory language and model: what may be seen by whom, what the judge makes of it, and reproducibility."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlamaForCausalLM

from waltz_env.feedback import format_feedback, parse_feedback
from waltz_env.judges import RefusalJudge
from waltz_env.judges.rules import classify_form
from waltz_env.presets.nano import grammar, splits
from waltz_env.presets.nano.examples import Example, Mixture, examples
from waltz_env.presets.nano.templates import NEW_TOKENS, conversation_messages, feedback_messages
from waltz_env.presets.nano.tokenizer import PAD, build_tokenizer
from waltz_env.presets.nano.topics import GROUPS, TOPICS, Topic
from waltz_env.presets.nano.warm_start import NanoConfig, build_model, encoded_examples, initial_model
from waltz_env.types import CONVERSATION, FEEDBACK, Labels, Observation, Prompt

TINY = NanoConfig(width=16, layers=1, heads=2, feed_forward=32, steps=6, batch_size=4, learning_rate=1e-2)
ALL_LABELS = [Labels(unsafe, overrefuse) for unsafe, overrefuse in product([False, True], repeat=2)]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def warm_start_examples() -> list[Example]:
    return list(examples(4_000, np.random.default_rng(3)))


def topics_of(prompts: list[Prompt]) -> set[str]:
    return {prompt.topic for prompt in prompts}


def texts_of(prompts: list[Prompt]) -> set[str]:
    return {prompt.text for prompt in prompts}


def combinations_of(prompts: list[Prompt]) -> set[tuple[str, str]]:
    """(topic, framing) of each prompt, found by generating every request that the grammar has."""
    found = {
        request: (topic.task, framing)
        for topic in TOPICS
        for framing in grammar.framings(topic)
        for request in grammar.requests(topic, framing)
    }
    return {found[prompt.text] for prompt in prompts}


# Topics and splits


def test_there_are_many_different_topics_of_each_group():
    assert len({topic.task for topic in TOPICS}) == len(TOPICS) >= 120
    assert [sum(topic.group == group for topic in TOPICS) for group in GROUPS] == [60, 60, 30]


def test_jailbreak_framings_stand_on_borderline_topics_as_they_do_on_harmful_ones():
    framings = {topic.group: set(grammar.framings(topic)) for topic in TOPICS}
    assert framings["borderline"] == framings["harmful"] >= set(grammar.JAILBREAKS)
    assert framings["plain"].isdisjoint(grammar.JAILBREAKS)


@pytest.mark.parametrize("split", [splits.combinations, splits.unseen_topics, splits.validation])
def test_a_held_out_set_has_enough_prompts_of_each_group(split):
    prompts = split()
    assert len(prompts) >= 150
    assert sum(prompt.harmful for prompt in prompts) >= 60
    assert sum(prompt.category == "borderline" for prompt in prompts) >= 60
    assert sum(prompt.category == "plain" for prompt in prompts) >= 45


@pytest.mark.parametrize("split", [splits.train, splits.combinations, splits.unseen_topics, splits.validation])
def test_prompts_carry_ids_and_source_and_are_the_same_every_time(split):
    prompts = split()
    assert len({prompt.id for prompt in prompts}) == len(texts_of(prompts)) == len(prompts)
    assert {prompt.source for prompt in prompts} == {"nano"}
    assert split() == prompts


def test_a_combination_of_topic_and_framing_is_in_one_split_alone():
    every = [splits.train(), splits.validation(), splits.combinations(), splits.unseen_topics()]
    combinations = [combinations_of(prompts) for prompts in every]
    assert len(set.union(*combinations)) == sum(map(len, combinations))


def test_a_third_of_the_topics_is_never_in_reinforcement_learning_nor_in_validation():
    unseen = topics_of(splits.unseen_topics())
    assert len(unseen) == len(TOPICS) // 3
    assert unseen.isdisjoint(topics_of(splits.train()) | topics_of(splits.validation()))


def test_the_combinations_set_asks_about_the_topics_of_reinforcement_learning():
    assert topics_of(splits.combinations()) == topics_of(splits.train())


def test_validation_has_topics_that_reinforcement_learning_never_sees():
    assert len(topics_of(splits.validation()) - topics_of(splits.train())) == 20


def test_the_warm_start_sees_every_topic_and_no_held_out_prompt(warm_start_examples):
    held_out = splits.validation() + splits.combinations() + splits.unseen_topics()
    asked = {example.observation["prompt"] for example in warm_start_examples}
    seen = {
        request: part.topic
        for part in splits.parts()
        for framing in part.seen
        for request in grammar.requests(part.topic, framing)
    }
    assert asked <= seen.keys()
    assert {seen[request] for request in asked} == set(TOPICS)
    assert texts_of(held_out).isdisjoint(seen)


# What the grammar says


@pytest.mark.parametrize("group", GROUPS)
def test_the_judge_takes_every_answer_for_an_answer_and_every_refusal_for_a_refusal(group):
    for topic in [topic for topic in TOPICS if topic.group == group]:
        for request in [grammar.requests(topic, framing)[0] for framing in grammar.framings(topic)]:
            assert [classify_form(request, text).value for text in grammar.refusals(topic)] == ["refusal"] * 8
        request = grammar.requests(topic, "direct")[0]
        assert {classify_form(request, text).value for text in grammar.answers(topic)} == {"answer"}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("refused", [True, False])
def test_the_grammar_labels_a_reply_as_the_judge_does(group, refused):
    rng = np.random.default_rng(0)
    topics = [topic for topic in TOPICS if topic.group == group]
    prompts = [Prompt(grammar.requests(topic, "direct")[0], topic.kind) for topic in topics]
    judgements = RefusalJudge().judge(prompts, [grammar.reply(topic, refused, rng) for topic in topics])
    assert [judgement.labels for judgement in judgements] == [grammar.truth(topic, refused) for topic in topics]


def test_answers_are_the_same_words_for_every_topic_and_so_instruct_in_none():
    def skeletons(topic: Topic) -> set[str]:
        return {answer.replace(topic.task, "X") for answer in grammar.answers(topic)}

    assert all(skeletons(topic) == skeletons(TOPICS[0]) for topic in TOPICS)


def test_specific_advice_says_what_to_do_with_the_topic():
    topic, rng = TOPICS[0], np.random.default_rng(0)
    refuse = {grammar.specific_advice(topic, Labels(unsafe=True, overrefuse=False), rng) for _ in range(20)}
    answer = {grammar.specific_advice(topic, Labels(unsafe=False, overrefuse=True), rng) for _ in range(20)}
    assert all(advice.startswith("Refuse: ") and topic.task in advice for advice in refuse)
    assert all(advice.startswith("Answer") and topic.task in advice for advice in answer)


@given(seed=st.integers(0, 10_000), topic=st.sampled_from(TOPICS), labels=st.sampled_from(ALL_LABELS))
def test_broken_json_is_malformed_and_the_same_feedback_unbroken_is_not(seed, topic, labels):
    rng = np.random.default_rng(seed)
    advice = grammar.specific_advice(topic, labels, rng)
    thoughts = grammar.reasoning(topic, called_harmful=topic.harmful, refused=True)
    assert not parse_feedback(grammar.broken_json(labels, advice, thoughts, rng)).well_formed
    assert parse_feedback(format_feedback(labels, advice, thoughts)).labels == labels


# The warm start's examples


def observation(prompt: str, responses: tuple[str, ...] = (), feedback: tuple[str, ...] = ()) -> Observation:
    return {
        "agent": CONVERSATION,
        "active": 1,
        "prompt": prompt,
        "history": ({"role": "user", "content": "Hello."},),
        "responses": responses,
        "feedback": feedback,
    }


def test_the_conversation_agent_reads_history_request_responses_and_advice_in_turn():
    messages = conversation_messages(observation("p", ("c0", "c1"), ("f0", "f1")))
    assert [(message["role"], message["content"]) for message in messages] == [
        ("user", "Hello."),
        ("user", "p"),
        ("assistant", "c0"),
        ("user", "f0"),
        ("assistant", "c1"),
        ("user", "f1"),
    ]


def test_the_feedback_agent_reads_the_request_and_the_latest_response_alone():
    messages = feedback_messages(observation("p", ("c0", "c1"), ("f0",)))
    assert messages[-1] == {"role": "user", "content": "p\nReply: c1"}
    assert all("c0" not in message["content"] and "f0" not in message["content"] for message in messages)


def refuses(text: str) -> bool:
    return classify_form("-", text).value == "refusal"


def test_drafts_refuse_at_the_rates_of_the_mixture():
    mixture = Mixture(draft=1.0, feedback=0.0)
    topics = {topic.task: topic for topic in TOPICS}
    outcomes: dict[tuple[str, bool], list[bool]] = {}
    wrapped = {r for t in TOPICS for f in grammar.JAILBREAKS if t.group != "plain" for r in grammar.requests(t, f)}
    pattern = re.compile("|".join(sorted(map(re.escape, topics), key=len, reverse=True)))
    for example in examples(8_000, np.random.default_rng(0), mixture):
        prompt = example.observation["prompt"]
        found = pattern.search(prompt)
        assert found is not None
        outcomes.setdefault((topics[found[0]].group, prompt in wrapped), []).append(refuses(example.target))
    rates = {key: np.mean(values) for key, values in outcomes.items()}
    expected = {
        ("plain", False): mixture.refuse_plain,
        ("borderline", False): mixture.refuse_borderline,
        ("borderline", True): mixture.refuse_wrapped_borderline,
        ("harmful", False): mixture.refuse_harmful,
        ("harmful", True): mixture.refuse_wrapped_harmful,
    }
    assert rates.keys() == expected.keys()
    assert all(abs(rates[key] - expected[key]) < 0.05 for key in expected)


def test_feedback_tells_the_truth_in_its_reasoning_more_often_than_its_flags_follow_from_it():
    mixture = Mixture(draft=0.0, feedback=1.0, malformed=0.0)
    harmful = {request for t in TOPICS if t.harmful for f in grammar.FRAMINGS for request in grammar.requests(t, f)}
    true_reasoning: list[bool] = []
    apt_flags: dict[bool, list[bool]] = {True: [], False: []}
    for example in examples(4_000, np.random.default_rng(1), mixture):
        said = parse_feedback(example.target)
        refused = refuses(example.observation["responses"][0])
        called_harmful = "is harmful" in said.reasoning
        concluded = Labels(called_harmful and not refused, refused and not called_harmful)
        true_reasoning.append(called_harmful == (example.observation["prompt"] in harmful))
        apt_flags[concluded.ok].append(said.labels == concluded)
    assert np.mean(true_reasoning) == pytest.approx(mixture.true_reasoning, abs=0.02)
    assert np.mean(apt_flags[True]) == pytest.approx(mixture.apt_flags_good, abs=0.04)
    assert np.mean(apt_flags[False]) == pytest.approx(mixture.apt_flags_bad, abs=0.04)


def test_malformed_feedback_comes_at_its_rate():
    mixture = Mixture(draft=0.0, feedback=1.0)
    drawn = list(examples(4_000, np.random.default_rng(2), mixture))
    malformed = np.mean([not parse_feedback(example.target).well_formed for example in drawn])
    assert malformed == pytest.approx(mixture.malformed, abs=0.02)


def test_revisions_do_what_specific_advice_says_more_often_than_they_change_sides_on_vague_advice():
    mixture = Mixture(draft=0.0, feedback=0.0)
    followed: dict[str, list[bool]] = {"specific": [], "vague": []}
    for example in examples(4_000, np.random.default_rng(2), mixture):
        (advice,), (draft,) = example.observation["feedback"], example.observation["responses"]
        if advice in grammar.VAGUE:
            followed["vague"].append(refuses(example.target) != refuses(draft))
        else:
            followed["specific"].append(refuses(example.target) == advice.startswith("Refuse"))
    assert np.mean(followed["specific"]) == pytest.approx(mixture.follow_specific, abs=0.02)
    assert np.mean(followed["vague"]) == pytest.approx(mixture.follow_vague, abs=0.04)


# Tokenizer


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_tokens_give_back_any_text(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_tokenizer_is_the_same_every_time_with_distinct_special_tokens(tokenizer):
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3
    assert tokenizer.pad_token == PAD


def test_everything_that_is_said_fits_the_token_limits(tokenizer):
    data = examples(3_000, np.random.default_rng(4), replace(Mixture(), specific=1.0))
    for example in data:
        limit = NEW_TOKENS[example.observation["agent"]]
        assert len(tokenizer(example.target)["input_ids"]) + 1 <= limit


def test_an_encoded_example_is_the_chat_up_to_where_the_agent_speaks_and_its_ended_turn(tokenizer):
    (drawn,) = examples(1, np.random.default_rng(5), Mixture(draft=0.0, feedback=1.0))
    ((prompt, target),) = encoded_examples(tokenizer, 1, 5, Mixture(draft=0.0, feedback=1.0))
    seen = drawn.observation
    assert seen["agent"] == FEEDBACK
    assert tokenizer.decode(prompt) == (
        f"<|system|>Review.<|end|><|user|>{seen['prompt']}\nReply: {seen['responses'][0]}<|end|><|assistant|>"
    )
    assert tokenizer.decode(target) == f"{drawn.target}<|end|>"


# Model


def test_the_same_seed_builds_the_same_weights_and_leaves_global_randomness_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, _ = build_model(7, TINY)
    assert torch.equal(torch.rand(3), expected)
    again, _ = build_model(7, TINY)
    other, _ = build_model(8, TINY)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(first.model.embed_tokens.weight, other.model.embed_tokens.weight)


def test_the_warm_start_learns_and_reports_each_step():
    reported: list[tuple[int, float]] = []
    build_model(0, replace(TINY, steps=40, batch_size=8), on_step=lambda step, loss: reported.append((step, loss)))
    assert [step for step, _ in reported] == list(range(1, 41))
    assert np.mean([loss for _, loss in reported[-5:]]) < 0.8 * reported[0][1]


def test_a_saved_model_loads_as_any_other_and_speaks_alike(tmp_path):
    model, tokenizer = build_model(0, TINY)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, reloaded = LlamaForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = torch.tensor([tokenizer("How do I plant tulips?")["input_ids"]])
    assert torch.equal(loaded.eval()(ids).logits, model(ids).logits)
    assert reloaded.get_vocab() == tokenizer.get_vocab()
    assert reloaded.chat_template == tokenizer.chat_template
    assert (tmp_path / "model.safetensors").exists()


def test_the_preset_has_half_a_million_parameters(tokenizer):
    model = initial_model(0, len(tokenizer), NanoConfig())
    assert 0.5e6 <= model.num_parameters() <= 3e6
