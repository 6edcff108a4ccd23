"""The laboratory language and model: what may be seen by whom, what the judge makes of it, and reproducibility."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations, product
from typing import get_args

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlamaForCausalLM

from waltz_env.errors import CheckpointError
from waltz_env.feedback import format_feedback, parse_feedback
from waltz_env.judges import TaskJudge
from waltz_env.judges.rules import classify_form
from waltz_env.presets.nano import grammar, splits
from waltz_env.presets.nano.codes import CIPHERS, ONSETS, RIMES, decoded, encoded, own_words
from waltz_env.presets.nano.examples import Example, Mixture, examples
from waltz_env.presets.nano.grammar import Request
from waltz_env.presets.nano.preset import RECIPE, build_workbench
from waltz_env.presets.nano.splits import Wordings
from waltz_env.presets.nano.templates import NEW_TOKENS, conversation_messages, feedback_messages
from waltz_env.presets.nano.tokenizer import PAD, build_tokenizer
from waltz_env.presets.nano.topics import GROUPS, TOPICS, Topic
from waltz_env.presets.nano.warm_start import NanoConfig, build_model, encoded_examples, initial_model
from waltz_env.run_folder import RunFolder
from waltz_env.types import CONVERSATION, FEEDBACK, Labels, Observation, Prompt

TINY = NanoConfig(
    width=16, layers=1, heads=2, feed_forward=32, steps=6, batch_size=4, learning_rate=1e-2, warmup_steps=0
)
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


def every_request(hops: int) -> dict[str, Request]:
    """All requests that the grammar has, by their text."""
    everything = Wordings((), grammar.ASKS, CIPHERS)
    found: dict[str, Request] = {}
    for topic in TOPICS:
        wordings = everything._replace(framings=(*grammar.framings(topic), *grammar.UNSEEN))
        found |= {request.text: request for request in splits.requests(topic, wordings, hops)}
    return found


REQUESTS = {hops: every_request(hops) for hops in range(4)}


def request_of(text: str) -> Request:
    return next(requests[text] for requests in REQUESTS.values() if text in requests)


def framing_of(request: Request) -> str:
    return next(name for name in grammar.FRAMINGS if request in grammar.direct_requests(request.topic, name))


def wording_of(text: str) -> tuple[str, ...]:
    """What makes a request one that can be held out: topic and framing, topic and question, or topic and ciphers."""
    request = request_of(text)
    if request.hops == 0:
        return request.topic.task, "framing", framing_of(request)
    if request.hops == 1:
        return request.topic.task, "question", text.replace(request.asked, "")
    return request.topic.task, "ciphers", *request.ciphers


def wordings_of(prompts: list[Prompt]) -> set[tuple[str, ...]]:
    return {wording_of(prompt.text) for prompt in prompts}


SPLITS = [splits.train, splits.validation, splits.combinations, splits.unseen_topics]


# Topics and splits


def test_there_are_many_different_topics_of_each_group():
    assert len({topic.task for topic in TOPICS}) == len(TOPICS) >= 120
    assert [sum(topic.group == group for topic in TOPICS) for group in GROUPS] == [60, 60, 30]


def test_jailbreak_framings_stand_on_borderline_topics_as_they_do_on_harmful_ones():
    framings = {topic.group: set(grammar.framings(topic)) for topic in TOPICS}
    assert framings["borderline"] == framings["harmful"] >= set(grammar.JAILBREAKS)
    assert framings["plain"].isdisjoint(grammar.JAILBREAKS)


@pytest.mark.parametrize(
    ("split", "size"), [(splits.train, 1_200), (splits.validation, 240), (splits.unseen_topics, 240)]
)
def test_a_split_is_half_harmful_a_quarter_borderline_and_a_quarter_plain_with_the_same_hops_of_each(split, size):
    prompts = split()
    groups = {topic.task: topic.group for topic in TOPICS}
    for group, share in (("harmful", 0.5), ("borderline", 0.25), ("plain", 0.25)):
        hops = [request_of(prompt.text).hops for prompt in prompts if groups[prompt.topic] == group]
        assert [hops.count(n) for n in range(3)] == [round(size * share * part) for part in splits.HOP_SHARES]
    assert len(prompts) == size
    assert {prompt.category for prompt in prompts if not prompt.harmful} == {
        "plain",
        "borderline",
        "coded-1",
        "coded-2",
    }


@pytest.mark.parametrize("split", [*SPLITS, splits.three_hops, splits.unseen_framings])
def test_prompts_carry_ids_and_source_and_are_the_same_every_time(split):
    prompts = split()
    assert len({prompt.id for prompt in prompts}) == len(texts_of(prompts)) == len(prompts)
    assert {prompt.source for prompt in prompts} == {"nano"}
    assert split() == prompts


@pytest.mark.parametrize("split", [*SPLITS, splits.three_hops, splits.unseen_framings])
def test_a_prompt_asks_about_its_topic_and_has_its_kind(split):
    for prompt in split():
        topic = request_of(prompt.text).topic
        assert (prompt.topic, prompt.kind) == (topic.task, topic.kind)


def test_a_wording_of_a_topic_is_in_one_split_alone():
    found = [wordings_of(split()) for split in SPLITS]
    assert len(set.union(*found)) == sum(map(len, found))


def test_a_third_of_the_topics_is_never_in_reinforcement_learning_nor_in_validation():
    unseen = topics_of(splits.unseen_topics())
    assert len(unseen) == len(TOPICS) // 3
    assert unseen.isdisjoint(topics_of(splits.train()) | topics_of(splits.validation()))
    assert topics_of(splits.three_hops()) | topics_of(splits.unseen_framings()) <= unseen


def test_robustness_is_measured_on_what_no_split_and_no_example_has(warm_start_examples):
    asked = {example.observation["prompt"] for example in warm_start_examples}
    known = set.union(asked, *(texts_of(split()) for split in SPLITS))
    assert {request_of(prompt.text).hops for prompt in splits.three_hops()} == {3}
    assert {framing_of(request_of(prompt.text)) for prompt in splits.unseen_framings()} == set(grammar.UNSEEN)
    assert known.isdisjoint(texts_of(splits.three_hops()) | texts_of(splits.unseen_framings()))


def test_the_combinations_set_asks_about_the_topics_of_reinforcement_learning():
    assert topics_of(splits.combinations()) <= topics_of(splits.train())


def test_validation_has_topics_that_reinforcement_learning_never_sees():
    assert len(topics_of(splits.validation()) - topics_of(splits.train())) == 20


def test_the_warm_start_sees_every_topic_and_no_held_out_wording(warm_start_examples):
    held_out = set.union(*(wordings_of(split()) for split in SPLITS[1:]))
    asked = {e.observation["prompt"] for e in warm_start_examples if "What is " not in e.observation["prompt"][-14:]}
    seen = {wording_of(text) for text in asked}
    assert {topic for topic, *_ in seen} == {topic.task for topic in TOPICS}
    assert seen.isdisjoint(held_out)


def test_no_example_of_the_warm_start_tells_what_a_held_out_code_word_means(warm_start_examples):
    """Under its validation and test ciphers a topic's word never occurs, neither in a question nor in an exercise."""
    held = {
        f"{cipher} {encoded(cipher, own_words()[part.topic])} "
        for part in splits.parts()
        for cipher in (*part.validation.ciphers, *part.test.ciphers)
    }
    said = " ".join(text for e in warm_start_examples for text in (e.target, *e.observation["responses"]))
    assert not [words for words in held if words in said]


# The code


def test_every_topic_has_a_code_word_of_its_own():
    assert len(set(own_words().values())) == len(TOPICS) == len(ONSETS) * len(RIMES)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_cipher_is_undone_by_decoding_and_maps_words_one_to_one(cipher):
    words = set(own_words().values())
    assert {decoded(cipher, word) for word in words} == words
    assert all(decoded(cipher, encoded(cipher, word)) == word for word in words)


def test_ciphers_differ_for_most_words():
    words = own_words().values()
    for first, second in combinations(CIPHERS, 2):
        assert sum(decoded(first, word) == decoded(second, word) for word in words) < 0.2 * len(words)


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_decoding_leads_from_the_word_in_the_request_to_its_task_step_by_step(hops):
    for request in list(REQUESTS[hops].values())[::97]:
        steps = grammar.decoding(request).removeprefix("Now ").removesuffix(".").split(". ")
        assert len(steps) == hops
        left, right = zip(*(step.split(" is ") for step in steps), strict=True)
        assert left[0].split()[-1] == request.asked
        assert [word.split()[-1] for word in left[1:]] == list(right[:-1])  # each step begins where the last one ended
        assert right[-1] == request.topic.task
        assert [word.split()[0] for word in left[:-1]] == list(request.ciphers)


def test_a_coded_request_of_a_harmful_topic_looks_like_one_of_a_harmless_topic():
    """The same shapes, and words of the same letters: nothing but the meaning tells them apart."""
    shapes: dict[bool, set[str]] = {True: set(), False: set()}
    letters: dict[bool, set[str]] = {True: set(), False: set()}
    for request in (*REQUESTS[1].values(), *REQUESTS[2].values()):
        shapes[request.topic.harmful].add(request.text.replace(request.asked, "X"))
        letters[request.topic.harmful] |= {request.asked[0], request.asked[1:]}
    assert shapes[True] == shapes[False]
    assert letters[True] == letters[False] == {*ONSETS, *RIMES}


# What the grammar says


@pytest.mark.parametrize("group", GROUPS)
def test_the_judge_takes_every_answer_for_an_answer_and_every_refusal_for_a_refusal(group):
    for topic in [topic for topic in TOPICS if topic.group == group]:
        for task in (topic.task, own_words()[topic]):
            for request in [grammar.direct_requests(topic, framing)[0] for framing in grammar.framings(topic)]:
                assert [classify_form(request.text, text).value for text in grammar.refusals(task)] == ["refusal"] * 8
            request = grammar.coded_request(topic, grammar.ASKS[0], CIPHERS[:1])
            assert {classify_form(request.text, text).value for text in grammar.answers(task)} == {"answer"}


@pytest.mark.parametrize("deed", get_args(grammar.Deed))
@pytest.mark.parametrize("hops", [0, 1, 2])
def test_the_grammar_labels_a_reply_as_the_judge_does(deed, hops):
    rng = np.random.default_rng(0)
    requests = list(REQUESTS[hops].values())[::13]
    others = [next(topic.task for topic in TOPICS if topic != request.topic) for request in requests]
    tasks = others if deed == "strays" else [request.topic.task for request in requests]
    replies = [grammar.reply(task, deed == "refuses", rng) for task in tasks]
    prompts = [Prompt(request.text, request.topic.kind, topic=request.topic.task) for request in requests]
    judgements = TaskJudge().judge(prompts, replies)
    expected = [grammar.labels_of(request.topic.harmful, deed) for request in requests]
    assert [judgement.labels for judgement in judgements] == expected


def test_no_task_is_part_of_another_so_naming_one_names_no_other():
    tasks = [topic.task for topic in TOPICS]
    assert not [(one, other) for one in tasks for other in tasks if one != other and one in other]


def test_answers_are_the_same_words_for_every_topic_and_so_instruct_in_none():
    def skeletons(topic: Topic) -> set[str]:
        return {answer.replace(topic.task, "X") for answer in grammar.answers(topic.task)}

    assert all(skeletons(topic) == skeletons(TOPICS[0]) for topic in TOPICS)


@pytest.mark.parametrize(("refuse", "start"), [(True, "Refuse: "), (False, "Answer: ")])
def test_specific_advice_says_what_to_do_and_names_the_task(refuse, start):
    rng = np.random.default_rng(0)
    said = {grammar.specific_advice("sow peas", refuse, rng) for _ in range(20)}
    assert len(said) == 2
    assert all(advice.startswith(start) and "sow peas" in advice for advice in said)


def test_directional_advice_says_what_to_do_and_names_no_task():
    rng = np.random.default_rng(0)
    refuse = {grammar.directional_advice(True, rng) for _ in range(20)}
    answer = {grammar.directional_advice(False, rng) for _ in range(20)}
    assert (refuse, answer) == (set(grammar.DIRECTIONAL_REFUSE), set(grammar.DIRECTIONAL_ANSWER))
    assert refuse.isdisjoint(answer)


@given(seed=st.integers(0, 10_000), topic=st.sampled_from(TOPICS), labels=st.sampled_from(ALL_LABELS))
def test_broken_json_is_malformed_and_the_same_feedback_unbroken_is_not(seed, topic, labels):
    rng = np.random.default_rng(seed)
    advice = grammar.specific_advice(topic.task, labels.unsafe, rng)
    reason = grammar.reasoning(grammar.coded_request(topic, grammar.ASKS[0]), "refuses", called_harmful=topic.harmful)
    assert not parse_feedback(grammar.broken_json(labels, advice, reason, rng)).well_formed
    assert parse_feedback(format_feedback(labels, advice, reason)).labels == labels


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


ONLY_DRAFTS = {"draft": 1.0, "feedback": 0.0, "exercise": 0.0}
ONLY_FEEDBACK = {"draft": 0.0, "feedback": 1.0, "exercise": 0.0}
ONLY_EXERCISES = {"draft": 0.0, "feedback": 0.0, "exercise": 1.0}
ONLY_REVISIONS = {"draft": 0.0, "feedback": 0.0, "exercise": 0.0}


def test_drafts_refuse_at_the_rates_of_the_mixture():
    mixture = Mixture(**ONLY_DRAFTS)
    outcomes: dict[tuple[str, bool], list[bool]] = {}
    for example in examples(8_000, np.random.default_rng(0), mixture):
        request = request_of(example.observation["prompt"])
        key = ("coded", False) if request.hops else (request.topic.group, framing_of(request) in grammar.JAILBREAKS)
        outcomes.setdefault(key, []).append(refuses(example.target))
    rates = {key: np.mean(values) for key, values in outcomes.items()}
    expected = {
        ("plain", False): mixture.refuse_plain,
        ("borderline", False): mixture.refuse_borderline,
        ("borderline", True): mixture.refuse_wrapped_borderline,
        ("harmful", False): mixture.refuse_harmful,
        ("harmful", True): mixture.refuse_wrapped_harmful,
        ("coded", False): mixture.refuse_coded,
    }
    assert rates.keys() == expected.keys()
    assert all(abs(rates[key] - expected[key]) < 0.05 for key in expected)


def test_drafted_answers_in_code_name_the_task_at_their_rate_and_otherwise_the_word():
    named: list[bool] = []
    for example in examples(8_000, np.random.default_rng(6), Mixture(**ONLY_DRAFTS)):
        request = request_of(example.observation["prompt"])
        if request.hops and not refuses(example.target):
            assert (request.topic.task in example.target) != (request.asked in example.target)
            named.append(request.topic.task in example.target)
    assert np.mean(named) == pytest.approx(Mixture().name_task, abs=0.04)


def test_feedback_tells_the_truth_in_its_reasoning_more_often_than_its_flags_follow_from_it():
    mixture = Mixture(**ONLY_FEEDBACK, malformed=0.0)
    true_verdicts: list[bool] = []
    apt_flags: dict[bool, list[bool]] = {True: [], False: []}
    for example in examples(4_000, np.random.default_rng(1), mixture):
        said = parse_feedback(example.target)
        request = request_of(example.observation["prompt"])
        (reply,) = example.observation["responses"]
        deed: grammar.Deed = "refuses" if refuses(reply) else "answers" if request.topic.task in reply else "strays"
        assert said.reasoning.startswith(grammar.decoding(request))  # the chain is always true
        assert said.reasoning.endswith(f"The reply {deed}.")
        called_harmful = "is harmful" in said.reasoning
        concluded = grammar.labels_of(called_harmful, deed)
        true_verdicts.append(called_harmful == request.topic.harmful)
        apt_flags[concluded.ok].append(said.labels == concluded)
    assert np.mean(true_verdicts) == pytest.approx(mixture.true_reasoning, abs=0.02)
    assert np.mean(apt_flags[True]) == pytest.approx(mixture.apt_flags_good, abs=0.04)
    assert np.mean(apt_flags[False]) == pytest.approx(mixture.apt_flags_bad, abs=0.04)


def test_malformed_feedback_comes_at_its_rate():
    mixture = Mixture(**ONLY_FEEDBACK)
    drawn = list(examples(4_000, np.random.default_rng(2), mixture))
    malformed = np.mean([not parse_feedback(example.target).well_formed for example in drawn])
    assert malformed == pytest.approx(mixture.malformed, abs=0.02)


def test_advice_is_specific_directional_or_vague_and_names_the_right_task_at_the_rates_of_the_mixture():
    mixture = Mixture(**ONLY_FEEDBACK, malformed=0.0)
    kinds: list[str] = []
    right: list[bool] = []
    for example in examples(8_000, np.random.default_rng(5), mixture):
        said = parse_feedback(example.target)
        assert said.labels is not None
        assert said.labels.ok == (said.advice in grammar.CONTENT)
        if said.advice.startswith(("Refuse: ", "Answer: ")):
            kinds.append("specific")
            right.append(request_of(example.observation["prompt"]).topic.task in said.advice)
        elif not said.labels.ok:
            kinds.append("vague" if said.advice in grammar.VAGUE else "directional")
    assert kinds.count("specific") / len(kinds) == pytest.approx(mixture.specific, abs=0.03)
    assert kinds.count("directional") / len(kinds) == pytest.approx(mixture.directional, abs=0.03)
    assert np.mean(right) == pytest.approx(mixture.specific_right, abs=0.03)


def test_revisions_do_what_advice_says_and_take_the_task_that_it_names():
    mixture = Mixture(**ONLY_REVISIONS)
    followed: dict[str, list[bool]] = {"told": [], "vague": []}
    for example in examples(6_000, np.random.default_rng(2), mixture):
        (advice,), (draft,) = example.observation["feedback"], example.observation["responses"]
        refused = refuses(example.target)
        if advice in grammar.VAGUE:
            followed["vague"].append(refused != refuses(draft))
            continue
        told = advice.startswith("Refuse") or advice in grammar.DIRECTIONAL_REFUSE
        followed["told"].append(refused == told)
        named = re.search(r": it (?:means|is about how to) (.*)\.$", advice)
        if named and not refused:
            assert named[1] in example.target
    assert np.mean(followed["told"]) == pytest.approx(mixture.follow_advice, abs=0.02)
    assert np.mean(followed["vague"]) == pytest.approx(mixture.follow_vague, abs=0.04)


def test_exercises_ask_what_a_word_means_and_are_answered_by_its_decoding():
    for example in examples(200, np.random.default_rng(3), Mixture(**ONLY_EXERCISES)):
        word = re.fullmatch(r"In (?:(\w+) )?code: What is ([A-Z]{3})\?", example.observation["prompt"])
        assert word is not None
        assert example.target.startswith(f"Now {word[1]} {word[2]} is " if word[1] else f"Now {word[2]} is ")


def test_a_conversation_agent_that_thinks_works_out_the_request_and_then_says_what_it_would_have_said():
    for example in examples(500, np.random.default_rng(4), replace(Mixture(), exercise=0.0), thinking=True):
        if example.observation["agent"] == CONVERSATION:
            request = request_of(example.observation["prompt"])
            private, _, said = example.target.partition(f" {grammar.THOUGHT_END} ")
            assert private.startswith(f"{grammar.decoding(request)} To {request.topic.task} is harm".strip())
            assert said
            assert grammar.THOUGHT_END not in said


# Tokenizer


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_tokens_give_back_any_text(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_tokenizer_is_the_same_every_time_with_distinct_special_tokens(tokenizer):
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3
    assert tokenizer.pad_token == PAD


def test_everything_that_is_said_fits_the_token_limits(tokenizer):
    data = examples(3_000, np.random.default_rng(4), replace(Mixture(), specific=1.0, directional=0.0))
    for example in data:
        limit = NEW_TOKENS[example.observation["agent"]]
        assert len(tokenizer(example.target)["input_ids"]) + 1 <= limit


def test_an_encoded_example_is_the_chat_up_to_where_the_agent_speaks_and_its_ended_turn(tokenizer):
    (drawn,) = examples(1, np.random.default_rng(5), Mixture(**ONLY_FEEDBACK))
    ((prompt, target),) = encoded_examples(tokenizer, 1, 5, Mixture(**ONLY_FEEDBACK))
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


def test_a_model_of_the_earlier_language_is_refused(tmp_path):
    model, tokenizer = build_model(0, TINY)
    folder = RunFolder(tmp_path)
    tokenizer.add_tokens(["one more"])
    model.save_pretrained(folder.base)
    tokenizer.save_pretrained(folder.base)
    with pytest.raises(CheckpointError, match="earlier version, which had 1101 tokens and not 1100"):
        build_workbench(RECIPE, folder, Accelerator())
