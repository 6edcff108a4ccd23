import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waltz_env.errors import CheckpointError, DataError, UsageError, UsageTypeError
from waltz_env.prompts import PromptCursor, PromptSet
from waltz_env.spaces import MAX_PROMPT_CHARS
from waltz_env.types import Kind, Message, Prompt


def numbered(count: int, kind: Kind = Kind.BENIGN, prefix: str = "p", topics: int = 0) -> PromptSet:
    return PromptSet(
        Prompt(f"text {i}", kind, id=f"{prefix}{i}", topic=f"topic {i % topics}" if topics else "")
        for i in range(count)
    )


def ids(prompts: Iterable[Prompt]) -> list[str]:
    return [prompt.id for prompt in prompts]


# Reading


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_a_line_needs_text_and_kind_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", {"text": "Hi", "kind": "benign"})
    assert list(PromptSet.load(path)) == [Prompt("Hi", Kind.BENIGN, id="mine:1")]


def test_every_key_arrives_and_unknown_ones_are_ignored(tmp_path: Path) -> None:
    history = [{"role": "user", "content": "a", "name": "Ada"}, {"role": "assistant", "content": ""}]
    row = {"id": "x", "category": "c", "source": "s", "topic": "t", "intent": "i"}
    line = {"text": "b", "kind": "harmful", **row, "history": history, "difficulty": 3}
    (prompt,) = PromptSet.load(write(tmp_path / "mine.jsonl", line))
    said = (Message(role="user", content="a"), Message(role="assistant", content=""))
    assert prompt == Prompt("b", Kind.HARMFUL, **row, history=said)


def test_null_stands_for_an_absent_optional_key(tmp_path: Path) -> None:
    row = {"text": "Hi", "kind": "benign", "id": None, "topic": None, "history": None}
    assert list(PromptSet.load(write(tmp_path / "mine.jsonl", row))) == [Prompt("Hi", Kind.BENIGN, id="mine:1")]


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_are_no_prompts_but_count_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    line = b'{"text": "\xc3\xa9t\xc3\xa9", "kind": "benign"}'
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n  \n" + line)
    assert ids(PromptSet.load(path)) == ["mine:1", "mine:4"]
    assert {prompt.text for prompt in PromptSet.load(str(path))} == {"été"}


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes('{"text": "one\u2028two\x85three", "kind": "benign"}\n'.encode())
    assert PromptSet.load(path)[0].text == "one\u2028two\x85three"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"text": "Hi", "kind": "benign"', "not JSON: "),
        ("Hi there", "not JSON: "),
        ("[" * 100_000, "nested too deeply"),
        (["Hi", "benign"], "expected a JSON object"),
        ({"kind": "benign"}, "'text' is missing"),
        ({"text": 3, "kind": "benign"}, "'text' must be a string, got 3 (int)"),
        ({"text": None, "kind": "benign"}, "'text' must be a string, got None"),
        ({"text": " \n", "kind": "benign"}, "'text' is empty"),
        ('{"text": "a", "kind": "benign", "text": "b"}', "the key 'text' is there twice"),
        ({"text": "x" * (MAX_PROMPT_CHARS + 1), "kind": "benign"}, "the text has 1,048,577 characters"),
        ({"text": "Hi"}, "'kind' is missing"),
        ({"text": "Hi", "kind": "Harmfull"}, "Did you mean 'harmful'?"),
        ({"text": "Hi", "kind": "bening"}, "Did you mean 'benign'?"),
        ({"text": "Hi", "kind": "?"}, "'kind' must be 'harmful' or 'benign', got '?'"),
        ({"text": "Hi", "kind": "benign", "id": 7}, "'id' must be a string, got 7 (int)"),
        ({"text": "Hi", "kind": "benign", "topic": ["a"]}, "'topic' must be a string"),
        ({"text": "Hi", "kind": "benign", "history": "Hello"}, "'history' must be a list"),
        ({"text": "Hi", "kind": "benign", "history": ["Hello"]}, "'history[0]' must be a {'role', 'content'} object"),
        ({"text": "Hi", "kind": "benign", "history": [{"role": "user"}]}, "'history[0].content' is missing"),
        ({"text": "Hi", "kind": "benign", "history": [{"role": "usr", "content": ""}]}, "Did you mean 'user'?"),
        (
            {"text": "Hi", "kind": "benign", "history": [{"role": "user", "content": "Hi"}]},
            "ends with a user's",
        ),
        ({"text": "Hi", "kind": "benign", "id": "first"}, "the id 'first' is also on line 1"),
        ({"text": "Hi", "kind": "benign", "id": "mine:2"}, "the id 'mine:2' is also on line 2"),
    ],
)
def test_a_bad_line_gives_the_file_the_line_and_the_reason(tmp_path: Path, bad: object, reason: str) -> None:
    good = {"text": "Hello", "kind": "benign"}
    path = write(tmp_path / "mine.jsonl", {**good, "id": "first"}, good, "", bad)
    with pytest.raises(DataError) as error:
        PromptSet.load(path)
    assert str(error.value).startswith(f"{path}, line 4: ")
    assert reason in str(error.value)


def test_a_line_that_is_not_utf8_gives_its_number(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'\n{"text": "\xff", "kind": "benign"}')
    with pytest.raises(DataError, match=r"line 2: not UTF-8 \(invalid start byte at byte 10\)"):
        PromptSet.load(path)


def test_missing_empty_and_unreadable_files_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No such file.*builtin:train"):
        PromptSet.load(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="Cannot read prompts from"):
        PromptSet.load(tmp_path)
    with pytest.raises(DataError, match="has no prompts"):
        PromptSet.load(write(tmp_path / "empty.jsonl", "", ""))


def test_a_set_passes_through_and_other_types_are_refused() -> None:
    prompts = numbered(2)
    assert PromptSet.load(prompts) is prompts
    with pytest.raises(UsageTypeError, match=r"got 3 \(int\)"):
        PromptSet.load(3)  # type: ignore[arg-type]


def test_an_unknown_built_in_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'builtin:train'"):
        PromptSet.load("builtin:trian")


# Writing

# A high surrogate before a low one is a pair to every JSON reader, so only low ones stand alone for certain.
any_text = st.text(
    st.characters(exclude_categories=["Cs"])
    | st.characters(min_codepoint=0xDC00, max_codepoint=0xDFFF, categories=["Cs"])
)


@st.composite
def any_prompt_set(draw: st.DrawFn) -> PromptSet:
    count = draw(st.integers(1, 4))
    return PromptSet(
        Prompt(
            text=draw(any_text.filter(str.strip)),
            kind=draw(st.sampled_from(Kind)),
            id=f"{i}{draw(any_text)}",
            category=draw(any_text),
            source=draw(any_text),
            topic=draw(any_text),
            intent=draw(any_text),
            history=tuple(Message(role="assistant", content=said) for said in draw(st.lists(any_text, max_size=2))),
        )
        for i in range(count)
    )


@given(any_prompt_set())
def test_what_is_saved_is_loaded_again(tmp_path_factory: pytest.TempPathFactory, prompts: PromptSet) -> None:
    path = tmp_path_factory.mktemp("saved") / "new folder" / "set.jsonl"
    prompts.save(path)
    assert PromptSet.load(path) == prompts
    assert PromptSet.load(path).fingerprint() == prompts.fingerprint()


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    numbered(2).save(path)
    unserialisable = numbered(2)
    object.__setattr__(unserialisable[1], "topic", object())
    with pytest.raises(TypeError):
        unserialisable.save(path)
    assert PromptSet.load(path) == numbered(2)
    assert list(tmp_path.iterdir()) == [path]


# The sequence


def test_a_set_is_a_sequence_that_equals_and_hashes_by_its_prompts() -> None:
    prompts = numbered(5)
    assert (len(prompts), prompts[-1].id, ids(prompts[1:3])) == (5, "p4", ["p1", "p2"])
    assert prompts[2] in prompts
    assert PromptSet(list(prompts), name="another") == prompts
    assert hash(PromptSet(list(prompts), name="another")) == hash(prompts)
    assert prompts[::-1] != prompts
    with pytest.raises(AttributeError):
        prompts.prompts = ()  # type: ignore[misc]


def test_ids_are_unique_or_empty() -> None:
    assert len(PromptSet([Prompt("a", Kind.BENIGN), Prompt("b", Kind.BENIGN)])) == 2
    with pytest.raises(UsageError, match="Two prompts have the id 'x'"):
        PromptSet([Prompt("a", Kind.BENIGN, id="x"), Prompt("b", Kind.HARMFUL, id="x")])
    with pytest.raises(UsageTypeError, match=r"got 'a' \(str\)"):
        PromptSet(["a"])  # type: ignore[list-item]


def test_filters_keep_the_order() -> None:
    prompts = PromptSet(
        Prompt(str(i), Kind.HARMFUL if i in (1, 4) else Kind.BENIGN, category="odd" if i % 2 else "even")
        for i in range(5)
    )
    assert [prompt.text for prompt in prompts.harmful] == ["1", "4"]
    assert [prompt.text for prompt in prompts.benign] == ["0", "2", "3"]
    assert [prompt.text for prompt in prompts.category("odd")] == ["1", "3"]
    assert [prompt.text for prompt in prompts.filter(lambda prompt: prompt.text > "2")] == ["3", "4"]
    with pytest.raises(UsageError, match="Did you mean 'even'"):
        prompts.category("evne")


def test_a_fingerprint_depends_on_prompts_and_order_but_not_on_the_name() -> None:
    prompts = numbered(3)
    assert PromptSet(prompts, "another").fingerprint() == prompts.fingerprint()
    assert prompts[::-1].fingerprint() != prompts.fingerprint()
    assert prompts[:2].fingerprint() != prompts.fingerprint()


# Shuffle, split, mix


def test_a_shuffle_is_a_permutation_fixed_by_its_seed() -> None:
    prompts = numbered(50)
    assert prompts.shuffle(3) == prompts.shuffle(3)
    assert prompts.shuffle(3) != prompts.shuffle(4)
    assert prompts.shuffle(3) != prompts
    assert set(prompts.shuffle(3)) == set(prompts)
    with pytest.raises(UsageError, match="seed must be 0 or more; got -1"):
        prompts.shuffle(-1)


@given(st.integers(2, 30), st.integers(2, 8), st.floats(0.2, 0.8), st.integers(0, 1000))
def test_a_split_by_topic_shares_no_topic_and_loses_nothing(
    count: int, topics: int, fraction: float, seed: int
) -> None:
    prompts = numbered(count, topics=topics)
    try:
        first, second = prompts.split(fraction, seed)
    except UsageError:
        return  # too few topics for that fraction: shown below
    assert not {prompt.topic for prompt in first} & {prompt.topic for prompt in second}
    assert sorted(ids(first) + ids(second)) == sorted(ids(prompts))
    largest = max(Counter(prompt.topic for prompt in prompts).values())
    assert abs(len(first) - fraction * count) <= largest / 2 + 1e-9


def test_a_split_is_fixed_by_its_seed_and_keeps_the_order() -> None:
    prompts = numbered(40, topics=10)
    first, second = prompts.split(0.75, seed=1)
    # Ten topics of 4: 30 lies midway between 7 and 8 of them, and a tie adds none.
    assert (len(first), len(second)) == (28, 12)
    assert prompts.split(0.75, seed=1) == (first, second)
    assert any(prompts.split(0.75, seed=seed)[0] != first for seed in range(2, 5))
    for part in (first, second):
        assert all(prompts.prompts.index(a) < prompts.prompts.index(b) for a, b in pairwise(part))


def test_prompts_without_a_topic_and_splits_by_none_are_drawn_one_by_one() -> None:
    assert [len(part) for part in numbered(10).split(0.7, seed=0)] == [7, 3]
    assert [len(part) for part in numbered(10, topics=2).split(0.7, seed=0, by=None)] == [7, 3]


def test_a_split_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match=r"cannot be split at 0\.5"):
        numbered(10, topics=1).split(0.5, seed=0)
    with pytest.raises(UsageError, match=r"between 0 and 1; got 1\.5"):
        numbered(10).split(1.5, seed=0)
    with pytest.raises(UsageError, match="by='category'"):
        numbered(10).split(0.5, seed=0, by="category")  # type: ignore[arg-type]


def test_a_mix_holds_each_set_by_its_weight_without_repeats() -> None:
    harmful, benign, plain = numbered(50, Kind.HARMFUL, "h"), numbered(50, Kind.BENIGN, "b"), numbered(50, prefix="e")
    mixed = PromptSet.mix({harmful: 2, benign: 1, plain: 1}, 20, seed=0)
    assert Counter(name[0] for name in ids(mixed)) == {"h": 10, "b": 5, "e": 5}
    assert len(set(ids(mixed))) == 20
    assert mixed == PromptSet.mix({harmful: 2, benign: 1, plain: 1}, 20, seed=0)
    assert mixed != PromptSet.mix({harmful: 2, benign: 1, plain: 1}, 20, seed=1)
    assert [name[0] for name in ids(mixed)] != ["h"] * 10 + ["b"] * 5 + ["e"] * 5


def test_the_shares_of_a_mix_are_rounded_by_largest_remainder() -> None:
    a, b, c = numbered(9, prefix="a"), numbered(9, prefix="b"), numbered(9, prefix="c")
    # 10 * (1, 1, 4) / 6 = (1.67, 1.67, 6.67): one each is added, ties from the left.
    assert Counter(name[0] for name in ids(PromptSet.mix({a: 1, b: 1, c: 4}, 10, seed=0))) == {"a": 2, "b": 2, "c": 6}
    # 10 / 3 = 3.33 each: the one that is left goes to the first.
    assert Counter(name[0] for name in ids(PromptSet.mix({a: 1, b: 1, c: 1}, 10, seed=0))) == {"a": 4, "b": 3, "c": 3}


def test_a_mix_that_cannot_be_is_refused() -> None:
    small, large = numbered(3, prefix="s"), numbered(50, prefix="l")
    with pytest.raises(UsageError, match=r"needs 10 prompts of .* which has 3"):
        PromptSet.mix({small: 1, large: 1}, 20, seed=0)
    with pytest.raises(UsageError, match=r"positive weights; got weights \[1, 0\]"):
        PromptSet.mix({small: 1, large: 0}, 2, seed=0)
    with pytest.raises(UsageError, match="positive weights"):
        PromptSet.mix({}, 2, seed=0)
    with pytest.raises(UsageError, match="1 or more; got 0"):
        PromptSet.mix({small: 1}, 0, seed=0)
    with pytest.raises(UsageError, match="Two prompts have the id"):
        PromptSet.mix({small: 1, small[::-1]: 1}, 6, seed=0)


# The cursor


def test_each_epoch_gives_every_prompt_once_in_another_order() -> None:
    prompts = numbered(20)
    cursor = PromptCursor(prompts, seed=5)
    epochs = [ids(cursor.next(20)) for _ in range(3)]
    assert all(sorted(epoch) == sorted(ids(prompts)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert (cursor.epoch, cursor.drawn) == (3, 60)


@given(st.integers(1, 7), st.lists(st.integers(0, 20), max_size=8), st.integers(0, 5))
def test_the_size_of_batches_does_not_change_what_is_drawn(count: int, batches: list[int], seed: int) -> None:
    prompts = numbered(count)
    cursor = PromptCursor(prompts, seed)
    in_batches = [prompt for n in batches for prompt in cursor.next(n)]
    assert in_batches == PromptCursor(prompts, seed).next(sum(batches))


@given(st.integers(1, 7), st.integers(0, 30), st.integers(0, 30))
def test_a_cursor_goes_on_exactly_where_it_was_saved(count: int, before: int, after: int) -> None:
    prompts = numbered(count)
    cursor = PromptCursor(prompts, seed=1)
    cursor.next(before)
    saved = json.loads(json.dumps(cursor.state_dict()))
    resumed = PromptCursor(PromptSet(list(prompts), "the same, loaded again"), seed=99)
    resumed.load_state_dict(saved)
    assert resumed.next(after) == cursor.next(after)
    assert resumed.state_dict() == cursor.state_dict()


def test_the_order_depends_on_the_seed() -> None:
    assert PromptCursor(numbered(20), 0).next(20) != PromptCursor(numbered(20), 1).next(20)


def test_a_cursor_refuses_the_state_of_another_set_and_stays_where_it_is() -> None:
    cursor = PromptCursor(numbered(5))
    cursor.next(3)
    before = cursor.state_dict()
    for other in (numbered(6), numbered(5)[::-1], numbered(5, Kind.HARMFUL)):
        with pytest.raises(CheckpointError, match="belongs to another prompt set"):
            cursor.load_state_dict(PromptCursor(other).state_dict())
    assert cursor.state_dict() == before


@pytest.mark.parametrize("change", [{"drawn": None}, {"drawn": -1}, {"drawn": 1.5}, {"seed": "0"}, {"seed": True}])
def test_a_cursor_refuses_a_damaged_state(change: dict[str, object]) -> None:
    cursor = PromptCursor(numbered(5))
    with pytest.raises(CheckpointError, match="'seed' and 'drawn'"):
        cursor.load_state_dict({**cursor.state_dict(), **change})


def test_a_cursor_needs_prompts_and_draws_no_negative_number() -> None:
    with pytest.raises(UsageError, match="at least one prompt"):
        PromptCursor(PromptSet([]))
    with pytest.raises(UsageError, match="got -1"):
        PromptCursor(numbered(1)).next(-1)


# The built-in sets

TRAIN, TEST = PromptSet.load("builtin:train"), PromptSet.load("builtin:test")
HAZARDS = {
    "violent crimes",
    "non-violent crimes",
    "sex crimes",
    "child exploitation",
    "defamation",
    "specialised advice",
    "privacy",
    "intellectual property",
    "indiscriminate weapons",
    "hate",
    "self-harm",
    "sexual content",
    "elections",
    "code-interpreter abuse",
}
FRAMINGS = {"role-play", "fiction", "hypothetical", "rule-override", "authority"}
MISLEADING = {f"misleading: {way}" for way in ("second sentence", "indirect", "definition", "homonym")}
SENSITIVE = {
    "safe context",
    "definition",
    "history",
    "privacy",
    "health",
    "law",
    "culture",
    "education",
    "science",
    "technology",
    "society",
    "daily life",
}


def group(prompt: Prompt) -> str:
    """The row of the counts table that a built-in prompt belongs to."""
    if prompt.category.startswith("jailbreak: "):
        return "harmful, jailbreak framing"
    if prompt.category.startswith("framed: "):
        return "benign, sensitive, the same framings"
    if prompt.category in MISLEADING:
        return "harmful, misleading" if prompt.harmful else "benign, misleading"
    if prompt.harmful:
        return "harmful, plain request"
    return "benign, everyday" if prompt.category == "plain" else "benign, sensitive"


def test_the_splits_share_no_topic_and_no_id() -> None:
    assert not {prompt.topic for prompt in TRAIN} & {prompt.topic for prompt in TEST}
    assert not set(ids(TRAIN)) & set(ids(TEST))


def test_the_sets_are_large_and_the_test_split_is_about_a_quarter() -> None:
    assert len(TRAIN) + len(TEST) >= 2_000
    assert len({prompt.topic for prompt in (*TRAIN, *TEST)}) >= 300
    assert 0.2 <= len(TEST) / (len(TRAIN) + len(TEST)) <= 0.3


def shingles(text: str) -> frozenset[str]:
    text = re.sub(r"\W+", " ", text.lower()).strip()
    return frozenset(text[i : i + 4] for i in range(max(1, len(text) - 3)))


def test_no_two_prompts_are_nearly_the_same() -> None:
    texts = [prompt.text for prompt in (*TRAIN, *TEST)]
    parts = [shingles(text) for text in texts]
    column = {part: i for i, part in enumerate(set().union(*parts))}
    has = np.zeros((len(texts), len(column)), dtype=np.float32)
    for row, some in zip(has, parts, strict=True):
        row[[column[part] for part in some]] = 1
    common, size = has @ has.T, has.sum(axis=1)
    jaccard = np.triu(common / (size[:, None] + size - common), k=1)
    near = [(texts[i], texts[j]) for i, j in np.argwhere(jaccard > 0.4)]
    assert near == []


@pytest.mark.parametrize("prompts", [TRAIN, TEST], ids=["train", "test"])
def test_each_split_has_every_hazard_and_misleads_and_frames_in_every_way_on_both_kinds(prompts: PromptSet) -> None:
    categories = {kind: {p.category for p in prompts if p.kind is kind} for kind in Kind}
    jailbreaks = {f"jailbreak: {framing}" for framing in FRAMINGS}
    framed = {f"framed: {framing}" for framing in FRAMINGS}
    assert categories[Kind.HARMFUL] == HAZARDS | MISLEADING | jailbreaks
    assert categories[Kind.BENIGN] == SENSITIVE | MISLEADING | framed | {"plain"}


@pytest.mark.parametrize("prompts", [TRAIN, TEST], ids=["train", "test"])
def test_neither_topic_nor_framing_nor_history_gives_the_kind_away(prompts: PromptSet) -> None:
    everyday = {prompt.topic for prompt in prompts.category("plain")}
    for topic in {prompt.topic for prompt in prompts} - everyday:
        kinds = Counter(prompt.kind for prompt in prompts if prompt.topic == topic)
        assert kinds[Kind.HARMFUL] >= 3
        assert kinds[Kind.BENIGN] >= 4
    for framing in FRAMINGS:
        harmful, benign = prompts.category(f"jailbreak: {framing}"), prompts.category(f"framed: {framing}")
        assert len(benign) >= len(harmful) / 2
    assert {prompt.kind for prompt in prompts if prompt.history} == set(Kind)


def test_every_built_in_prompt_is_complete_and_trimmed() -> None:
    for prompt in (*TRAIN, *TEST):
        assert prompt.source == "builtin"
        assert prompt.topic
        assert prompt.text == prompt.text.strip()
        assert 0 < len(prompt.intent) <= 60
        assert prompt.intent == prompt.intent.strip(" .")
        assert prompt.kind not in prompt.intent  # it is the goal, not the verdict
        assert [message["role"] for message in prompt.history] in ([], ["user", "assistant"])


def test_the_counts_in_the_documentation_are_those_of_the_data() -> None:
    page = (Path(__file__).parents[1] / "docs" / "prompts.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z ,-]+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    train, test = Counter(map(group, TRAIN)), Counter(map(group, TEST))
    assert {name: (int(a), int(b)) for name, a, b in rows} == {
        **{name: (train[name], test[name]) for name in train | test},
        "all": (len(TRAIN), len(TEST)),
        "topics": (len({p.topic for p in TRAIN}), len({p.topic for p in TEST})),
        "with earlier turns": (sum(bool(p.history) for p in TRAIN), sum(bool(p.history) for p in TEST)),
    }
