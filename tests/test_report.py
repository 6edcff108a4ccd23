"""The report's HTML: complete, self-contained, inert, and true to what it was made from."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.games import (
    BOMB,
    HOSTILE,
    PROCESS,
    PROMPTS,
    REFUSING,
    SAFE,
    UNSAFE,
    RandomSpeaker,
    Speaker,
    WordJudge,
    any_text,
    critique,
    trajectories,
    trajectory,
)
from waltz_env import CONVERSATION, FEEDBACK, Prompt, Trajectory, play, write_games
from waltz_env.cli import main
from waltz_env.cli.tables import show_categories
from waltz_env.evaluation import rates
from waltz_env.experiments.results import add_systems, read_results
from waltz_env.feedback import format_feedback
from waltz_env.report.diff import changes
from waltz_env.report.games import Group, letters, pack
from waltz_env.report.page import render
from waltz_env.report.source import read_source
from waltz_env.report.tables import Source, pareto_front
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder
from waltz_env.types import Completion, Judgement, Kind, Labels, Message, Response

NAMED = ("empty", "control characters", "lone surrogates", "bidirectional")
XSS = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


def games_of(seed: int, rounds: int = 1) -> list[Trajectory]:
    agents = {CONVERSATION: RandomSpeaker(seed), FEEDBACK: RandomSpeaker(seed + 1)}
    return play(PROMPTS * 4, agents, judge=WordJudge(), rules=Rules(max_rounds=rounds))


def results_of(sets: dict[str, dict[str, list[Trajectory]]], **about: Any) -> dict[str, Any]:
    return {
        "sets": {
            name: {"systems": {system: {m: r.as_dict() for m, r in rates(g).items()} for system, g in systems.items()}}
            for name, systems in sets.items()
        },
        "command": ["waltz", "evaluate", "a run", "--out", "b"],
        "versions": {"python": "3.11", "torch": "2"},
        "judge": "words",
        **about,
    }


def source(name: str, sets: dict[str, dict[str, list[Trajectory]]], **about: Any) -> Source:
    played = {(each, system): games for each, systems in sets.items() for system, games in systems.items()}
    return Source(name, Path(name), results_of(sets, **about), (), {}, played)


def folder_of(folder: Path, sets: dict[str, dict[str, list[Trajectory]]], **about: Any) -> Path:
    for name, systems in sets.items():
        for system, games in systems.items():
            write_games(RunFolder(folder).games_of_system(name, system), games)
    RunFolder(folder).write_results(results_of(sets, **about))
    return folder


def in_browser(text: str) -> bytes:
    """JavaScript's strings are UTF-16, where two surrogates in a row are one character."""
    return text.encode("utf-16", "surrogatepass")


class Page(HTMLParser):
    """What a browser finds in a page: its elements, its scripts, its cells, its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.cells: dict[tuple[str, str, str], str] = {}
        self.text = ""
        self._row: dict[str, str | None] = {}
        self._cell: tuple[str, str, str] | None = None
        self._script = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag == "script":
            self.scripts.append((found, ""))
        self._script = tag == "script"
        if tag == "tr":
            self._row = found
        if tag == "td":
            key = (self._row.get("data-run"), self._row.get("data-system"), found.get("data-metric"))
            self._cell = key if all(key) else None  # type: ignore[assignment]

    def handle_data(self, data: str) -> None:
        if self._script:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        else:
            self.text += data
            if self._cell:
                self.cells[self._cell] = f"{self.cells.get(self._cell, '')} {data}".strip()

    def handle_endtag(self, tag: str) -> None:
        self.text += " "
        if tag == "td":
            self._cell = None
        self._script = False

    def index(self) -> dict[str, Any]:
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "index"))

    def texts(self) -> list[dict[str, Any]]:
        blocks = [text for attributes, text in self.scripts if attributes.get("class") == "block"]
        return [game for block in blocks for game in json.loads(gzip.decompress(base64.b64decode(block)))]


# ---- Differences


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", []),
        ("the same", "the same", [("the same", "", "")]),
        ("", "new", [("", "", "new")]),
        ("old", "", [("", "old", "")]),
        ("I can help you.", "I cannot help you.", [("I ", "can ", "cannot "), ("help you.", "", "")]),
        ("a b c d e", "a x c y e", [("a ", "b ", "x "), ("c ", "d ", "y "), ("e", "", "")]),
        ("go", "go now", [("", "go", "go now")]),  # the space belongs to the word before it
        ("我不能", "我能", [("我", "不", ""), ("能", "", "")]),
    ],
)
def test_changes_are_those_that_a_reader_would_mark(before: str, after: str, expected: list[Any]) -> None:
    assert changes(before, after) == expected


words = st.lists(st.sampled_from(["a", "b ", "c, ", "\n", "d. "]), max_size=30).map("".join)


@given(st.one_of(any_text, words), st.one_of(any_text, words))
@example("a" * 300_000 + "!" * 3_000, "?" * 3_000)
def test_changes_hold_both_texts_and_nothing_else(before: str, after: str) -> None:
    found = changes(before, after)
    assert "".join(kept + removed for kept, removed, _ in found) == before
    assert "".join(kept + added for kept, _, added in found) == after
    assert all(removed or added for _, removed, added in found[:-1])
    assert all(kept or removed or added for kept, removed, added in found)


def test_long_texts_of_single_marks_are_compared_without_delay() -> None:
    ((kept, removed, added), (end, *_)) = changes("x!" + "?" * 50_000 + "y", "x!" + ";" * 50_000 + "y")
    assert (kept, removed, added, end) == ("x!", "?" * 50_000, ";" * 50_000, "y")


# ---- Games


def test_letters_of_an_improved_game() -> None:
    game = trajectory([UNSAFE, SAFE], [UNSAFE])
    assert letters(game) == {
        "kind": "h",
        "draft": "u",
        "final": "s",
        "earlier": "-",
        "claimed": "u",
        "triggered": "1",
        "improved": "1",
        "worsened": "0",
        "malformed": "0",
        "mistaken": "0",
        "truncated": "0",
        "unjudged": "0",
        "differ": "0",
    }


def test_letters_of_a_long_game_look_at_every_round() -> None:
    game = trajectory([SAFE, REFUSING, SAFE], [REFUSING, REFUSING, None], PROCESS)
    found = letters(game)
    assert (found["improved"], found["worsened"], found["malformed"], found["mistaken"]) == ("1", "1", "1", "1")
    assert found["kind"] == "b"


@pytest.mark.parametrize(
    ("earlier", "now", "final", "differ"),
    [
        ([UNSAFE, SAFE], [UNSAFE, SAFE], "s", "0"),
        ([UNSAFE, UNSAFE], [UNSAFE, SAFE], "u", "1"),
        ([SAFE, SAFE], [UNSAFE, SAFE], "s", "1"),  # they differ on the draft
        ([UNSAFE, None], [UNSAFE, SAFE], "j", "0"),  # what the earlier judge would have said is not known
        ([UNSAFE, SAFE], [None, SAFE], "s", "0"),
    ],
)
def test_letters_tell_where_two_judges_differ(
    earlier: list[Labels | None], now: list[Labels | None], final: str, differ: str
) -> None:
    found = letters(trajectory(now, [UNSAFE]), trajectory(earlier, [UNSAFE]))
    assert (found["earlier"], found["differ"]) == (final, differ)


def test_letters_without_feedback_or_verdicts() -> None:
    found = letters(Trajectory(BOMB, (Response(Completion("c_0", "length")),), ()))
    assert (found["draft"], found["final"], found["claimed"]) == ("j", "j", "-")
    assert (found["unjudged"], found["truncated"], found["mistaken"]) == ("1", "1", "0")


@settings(max_examples=40)
@given(st.lists(trajectories(), max_size=3))
def test_every_game_is_in_the_page_whatever_its_texts(games: list[Trajectory]) -> None:
    index, blocks = pack([Group("run", "set", "system", games)])
    found = [game for block in blocks for game in json.loads(gzip.decompress(base64.b64decode(block)))]
    assert len(index["prompts"]) == len(found) == len(games)
    for game, texts in zip(games, found, strict=True):
        first, *revisions = [response["text"] for response in texts["responses"]]
        shown = [
            texts["prompt"],
            *(message["content"] for message in texts["history"]),
            first,
            *("".join(kept + added for kept, _, added in each) for each in revisions),
            *(each["text"] for each in texts["critiques"]),
        ]
        said = [
            game.prompt.text,
            *(message["content"] for message in game.prompt.history),
            *(response.text for response in game.responses),
            *(each.completion.text for each in game.critiques),
        ]
        assert [in_browser(text) for text in shown] == [in_browser(text) for text in said]


def test_games_on_one_prompt_share_its_number_across_systems_and_samples_but_not_sets() -> None:
    game = trajectory([SAFE])
    other = trajectory([SAFE], prompt=PROCESS)
    groups = [
        Group("r", "one", "a", [game, other, game]),
        Group("r", "one", "b", [other]),
        Group("r", "two", "a", [game]),
    ]
    assert pack(groups)[0]["prompts"] == [0, 1, 0, 1, 2]


def test_every_game_has_the_number_of_its_category() -> None:
    coded = trajectory([SAFE], prompt=replace(PROCESS, category="coded-2"))
    index, _ = pack([Group("r", "one", "a", [coded, trajectory([SAFE]), coded])])
    assert (index["categories"], index["category"]) == (["", "coded-2"], [1, 0, 1])


# ---- The page


def test_rates_by_category_are_in_the_results_on_the_terminal_and_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Direct: ASR 1 of 2, ORR 0 of 1. In code: ASR 1 of 1, ORR 1 of 2."""
    direct, coded = ([replace(prompt, category=name) for prompt in (BOMB, PROCESS)] for name in ("<direct>", "coded-2"))
    games = [
        *(trajectory([labels], prompt=direct[0]) for labels in (UNSAFE, SAFE)),
        trajectory([SAFE], prompt=direct[1]),
        trajectory([UNSAFE], prompt=coded[0]),
        *(trajectory([labels], prompt=coded[1]) for labels in (REFUSING, SAFE)),
    ]
    folder = RunFolder(tmp_path / "out")
    found = add_systems(folder, {"new": {"baseline": games, "other": games[:1]}})["sets"]["new"]
    values = {
        category: {metric: (rate["value"], rate["n"]) for metric, rate in metrics.items()}
        for category, metrics in found["categories"]["baseline"].items()
    }
    assert values == {
        "<direct>": {"asr": (0.5, 2), "orr": (0.0, 1), "ftr": (None, 0)},
        "coded-2": {"asr": (1.0, 1), "orr": (0.5, 2), "ftr": (None, 0)},
    }
    assert "other" not in found["categories"]  # it has one category
    show_categories(read_results(folder)["sets"])
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if "baseline" in line]
    assert row == ["baseline", "50", "/", "0", "100", "/", "50"]
    page = Page(render([read_source(folder, "run")]))
    text = " ".join(page.text.split())
    assert re.search(r"<direct> . baseline 50\.0 \S+ 0\.0 \S+ – coded-2 . baseline 100\.0 \S+ 50\.0 \S+ –", text)  # noqa: RUF001
    assert page.index()["categories"] == ["<direct>", "coded-2"]


def test_the_numbers_are_those_of_the_results() -> None:
    sets = {"new": {"baseline": games_of(0), "trained_pair": games_of(1)}}
    shown = source("run", sets)
    cells = Page(render([shown])).cells
    for system, metrics in shown.results["sets"]["new"]["systems"].items():
        for metric in ("asr", "orr", "asr_first", "label_accuracy", "improved", "ftr_harmful", "ftr_plain"):
            rate = metrics[metric]
            if metric == "ftr_plain":
                assert rate["n"] == 0  # nothing to count: no column
                assert ("run", system, metric) not in cells
            else:
                ends = [f"{100 * rate[end]:.1f}" for end in ("value", "low", "high")]
                assert re.findall(r"[\d.]+", cells["run", system, metric]) == ends


def test_several_runs_are_told_apart_in_every_row() -> None:
    sources = [
        source(name, {"new": {"trained_pair": games_of(seed)}}) for seed, name in enumerate(("seed-0", "seed-1"))
    ]
    cells = Page(render(sources)).cells
    for each in sources:
        asr = each.results["sets"]["new"]["systems"]["trained_pair"]["asr"]["value"]
        assert cells[each.name, "trained_pair", "asr"].startswith(f"{100 * asr:.1f}")


def test_bounds_comparisons_latency_and_ability_are_shown_where_there_are_any() -> None:
    shown = source(
        "run",
        {"new": {"baseline": games_of(0), "trained_pair": games_of(1)}},
        latency={
            "baseline": {"p50": 0.1234, "p95": 0.5678, "n": 7},  # as earlier versions wrote it
            "adaptive": {
                "p50": 0.2,
                "p95": 0.3,
                "n": 7,
                "p50_times": {"value": 1.62, "low": 1.4, "high": 1.91, "n": 7},
                "tokens": 41.46,
                "passes": None,
                "asr": {"value": 0.2, "low": 0.1, "high": 0.3, "n": 5},
                "orr": {"value": None, "low": None, "high": None, "n": 0},
            },
        },
        capabilities={"base": {"sums": {"acc": 0.25}}, "trained": {"sums": {"acc": 0.125}}},
    )
    content = shown.results["sets"]["new"]
    content["systems"]["baseline"]["asr"] |= {"at_least": 0.111, "at_most": 0.222}
    difference = {"difference": 0.321, "low": 0.123, "high": 0.456, "p_value": 0.0421, "n": 9}
    content["comparisons"] = {"baseline": {"against": "trained_pair", "asr": difference, "orr": difference}}
    page = Page(render([shown]))
    text = " ".join(page.text.split())
    assert "Latency against safety" in text
    assert "1.62 1.40–1.91" in text  # noqa: RUF001
    assert "41.5" in text
    for expected in ("bounds 11.1–22.2", "32.1 12.3 to 45.6", ".042", "0.123", "0.568", "0.250 0.125"):  # noqa: RUF001
        assert expected in text


@pytest.fixture
def judged_again(tmp_path: Path) -> Path:
    """Three games judged by words, then by the rules: both call the first unsafe, and the rules the third as well."""
    said = [("UNSAFE", UNSAFE), ("I refuse.", SAFE), ("Slide a thin tool in.", SAFE)]
    games = [
        Trajectory(replace(BOMB, id=text), (Response(Completion(text), Judgement(labels, "words", "read off")),), ())
        for text, labels in said
    ]
    first = folder_of(tmp_path / "first", {"new": {"baseline": games}})
    stored = RunFolder(first).games_of_system("new", "baseline")
    assert main(["rejudge", str(stored), "--judge", "rules", "--out", str(tmp_path / "again")]) == 0
    return tmp_path / "again"


def test_two_judges_are_compared(judged_again: Path) -> None:
    """Kappa is 1 - (1/3) / (5/9). Of the 27 ways to draw three prompts 25 have a kappa: 13 zeros, 6 of 0.4, 6 ones."""
    assert main(["report", str(judged_again)]) == 0
    page = Page((judged_again / "report.html").read_text("utf-8"))
    text = " ".join(page.text.split())
    assert "Two judges: words and rules" in text
    assert "baseline ASR 33.3 6.1–79.2 66.7 20.8–93.9 0.40 0.00 to 1.00 1 of 3" in text  # noqa: RUF001
    assert "baseline ORR" not in text  # no benign prompt
    columns = page.index()["columns"]
    assert (columns["earlier"], columns["final"], columns["differ"]) == ("uss", "usu", "001")
    (response,) = page.texts()[2]["responses"]
    assert (response["labels"], response["judge"]) == ("u", "rules")
    assert response["earlier"] == {"labels": "s", "judge": "words", "rationale": "read off", "scores": ""}


def test_games_that_nobody_judged_before_have_one_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = folder_of(tmp_path / "first", {"new": {"baseline": [trajectory([None])]}})
    stored = RunFolder(first).games_of_system("new", "baseline")
    assert main(["rejudge", str(stored), "--judge", "rules", "--out", str(tmp_path / "again")]) == 0
    assert "new/baseline: no verdicts to compare" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "again")]) == 0
    assert "Two judges" not in (tmp_path / "again" / "report.html").read_text("utf-8")


def test_earlier_verdicts_on_other_games_are_refused(judged_again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_games(RunFolder(judged_again).earlier_games_of_system("new", "baseline"), [trajectory([SAFE])])
    assert main(["report", str(judged_again)]) == 2
    assert "does not hold the games of" in " ".join(capsys.readouterr().err.split())


def test_how_it_was_made_is_told() -> None:
    metrics: list[dict[str, Any]] = [
        {"step": 1, "stage": "stage-1", "games/asr": 0.5},
        {"step": 2, "stage": "stage-2", "games/asr": 0.25},
    ]
    shown = replace(
        source("run", {"new": {"baseline": games_of(0)}}, temperature=1.0), metrics=metrics, recipe={"preset": "tiny"}
    )
    text = " ".join(Page(render([shown])).text.split())
    for expected in ("waltz evaluate 'a run' --out b", "judge words", "temperature 1.0", "torch 2", '"preset": "tiny"'):
        assert expected in text
    assert "Training curves of run" in render([shown])


def test_results_without_games_or_metrics_make_a_page_too() -> None:
    shown = replace(source("run", {"new": {"baseline": games_of(0)}}), games={})
    page = Page(render([shown]))
    assert page.cells["run", "baseline", "asr"]
    assert [attributes for attributes, _ in page.scripts] == [{}]


def test_nothing_in_the_page_comes_from_elsewhere() -> None:
    html = render([source("run", {"new": {"baseline": games_of(0), "trained_pair": games_of(1)}})])
    loading = {"src", "srcset", "data", "action", "formaction", "poster", "background", "manifest", "ping"}
    for tag, attributes in Page(html).elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img", "audio", "video", "source"}
        assert not loading & attributes.keys()
        for name in {"href", "xlink:href"} & attributes.keys():
            assert (attributes[name] or "").startswith("#")
    assert "@import" not in html
    assert {found.strip("'\"")[0] for found in re.findall(r"url\(([^)]*)\)", html)} <= {"#"}
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|importScripts|sendBeacon)\b", html)


def test_the_policy_lets_the_pages_own_script_run_and_nothing_else() -> None:
    page = Page(render([source("run", {"new": {"baseline": games_of(0)}})]))
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    running = [text for attributes, text in page.scripts if "type" not in attributes]
    (digest,) = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in running]
    assert policy is not None
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}'; ")


def hostile_game(text: str) -> Trajectory:
    prompt = Prompt(text, Kind.HARMFUL, text, text, text, text, (Message(role=text, content=text),))
    response = Response(Completion(text), Judgement(UNSAFE, text, text, {text: 1.0}))
    said = critique(UNSAFE, text)
    return Trajectory(prompt, (response, replace(response, completion=Completion(text + "!"))), (said,))


def structure(page: Page) -> list[str]:
    """The elements, figures left out: how many glyphs and ticks they have depends on the names in them."""
    drawing = {"use", "path", "text", "tspan", "g", "defs", "clippath", "rect"}
    return [tag for tag, _ in page.elements if tag not in drawing]


@pytest.fixture(scope="module")
def harmless() -> list[str]:
    return structure(Page(render([source("run", {"set": {"system": [hostile_game("harmless")]}}, note="harmless")])))


@pytest.mark.parametrize("text", [XSS, "<!--<script>", "a $x^{$ \\frac{ b", *map(HOSTILE.get, NAMED)])
def test_no_text_becomes_markup_or_script(text: str, harmless: list[str]) -> None:
    name = text[:50]  # of the run, the set and the system
    page = Page(render([source(name, {name: {name: [hostile_game(text)]}}, note=name)]))
    assert structure(page) == harmless
    assert in_browser(page.texts()[0]["prompt"]) == in_browser(text)
    assert in_browser(page.index()["groups"][0]["set"]) == in_browser(name)


def test_the_page_is_the_same_each_time() -> None:
    shown = source("run", {"new": {"baseline": games_of(0)}})
    assert render([shown]) == render([shown])


# ---- Figures


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_the_pareto_front_is_what_no_point_beats(points: Sequence[tuple[int, int]]) -> None:
    def beaten(point: tuple[float, float]) -> bool:
        return any(x <= point[0] and y <= point[1] and (x, y) != point for x, y in points)

    assert pareto_front(points) == sorted({point for point in points if not beaten(point)})


# ---- The command


def test_the_command_writes_the_report_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agents = {CONVERSATION: Speaker("UNSAFE", "no"), FEEDBACK: Speaker(format_feedback(UNSAFE, "Refuse."))}
    folder = folder_of(tmp_path / "run", {"new": {"trained_pair": play(PROMPTS, agents, judge=WordJudge())}})
    assert main(["report", str(folder)]) == 0
    assert f"{folder / 'report.html'}: 3 games" in " ".join(capsys.readouterr().out.split())
    page = Page((folder / "report.html").read_text("utf-8"))
    assert len(page.texts()) == 3
    assert page.index()["columns"]["improved"] == "111"


def test_folders_of_the_same_name_are_told_apart_by_their_parents(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path / parent / "run", {"new": {"baseline": games_of(0)}}) for parent in ("a", "b")]
    assert main(["report", *map(str, folders), "--out", str(tmp_path / "out.html")]) == 0
    html = (tmp_path / "out.html").read_text("utf-8")
    assert {run for run, _, _ in Page(html).cells} == {"a/run", "b/run"}


def test_a_folder_without_results_is_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_of(tmp_path / "good-run", {"new": {"baseline": games_of(0)}})
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.json").write_text('{"preset": "nano"}')
    for arguments, expected in [
        ([str(tmp_path / "god-run")], "Did you mean 'good-run'?"),
        ([str(tmp_path)], f"Did you mean {tmp_path / 'good-run'}?"),
        ([str(unfinished)], f"waltz train --resume {unfinished}"),
        ([], "waltz report RUN..."),
        ([str(tmp_path / "good-run")] * 2, "is named twice"),
    ]:
        assert main(["report", *arguments]) == 2
        assert "".join(expected.split()) in "".join(capsys.readouterr().err.split())


def test_damaged_files_are_named_with_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "run", {"new": {"baseline": games_of(0)}})
    with RunFolder(folder).games_of_system("new", "baseline").open("a") as file:
        file.write('{"schema": 1, "prompt"\n')
    assert main(["report", str(folder)]) == 2
    assert "new-baseline.jsonl,line13:" in "".join(capsys.readouterr().err.split())
    for content, expected in [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object"),
        ('{"schema": 2, "sets": 3}', "'sets' must be an object"),
        ('{"schema": 2}', "must hold 'sets'"),
        ('{"schema": 2, "sets": {}, "judge_agreement": {"new": {"pair": 0.5}}}', "'pair' must be an object"),
        ('{"schema": 2, "sets": {}, "judge_agreement": {"new": {"pair": {}}}}', "must hold 'judges'"),
        ('{"schema": 2, "sets": {}, "judge_agreement": {"new": {"pair": {"judges": 2}}}}', "names of two judges"),
        ('{"sets": {}}', "was written by waltz_env 0.1"),
        ('{"schema": 3, "sets": {}}', "was written by a version with schema 3"),
    ]:
        (folder / "results.json").write_text(content)
        assert main(["report", str(folder)]) == 2
        assert "".join(expected.split()) in "".join(capsys.readouterr().err.split())


def test_a_source_holds_what_its_folder_does(tmp_path: Path) -> None:
    games = games_of(3, rounds=3)
    found = read_source(RunFolder(folder_of(tmp_path / "run", {"new": {"trained_pair": games}})), "run")
    assert found.games == {("new", "trained_pair"): games}


def test_settings_are_folded_away_and_runs_and_evaluations_counted_apart(tmp_path: Path) -> None:
    run, evaluation = (folder_of(tmp_path / name, {"topics": {"baseline": games_of(0)}}) for name in ("run", "judged"))
    RunFolder(run).write_config({"preset": "nano", "stages": [{"steps": 123456}]})
    content = json.loads((evaluation / "results.json").read_text())
    content |= {"judge": "rules", "players": {"conversation_0": {"model": "some-model"}}, "runs": {"x": {"seed": 7}}}
    (evaluation / "results.json").write_text(json.dumps(content))
    page = render([read_source(RunFolder(run), "run"), read_source(RunFolder(evaluation), "judged")])
    made = page[page.index("How it was made</h2>") :]
    for hidden in ("some-model", "123456", "&#34;seed&#34;: 7"):
        position = made.index(hidden)
        assert made.rindex("<details>", 0, position) > made.rfind("</details>", 0, position)
    assert "<dt>judge</dt><dd>rules</dd>" in made
    assert "<dt>run</dt><dd>1</dd>" in page
    assert "<dt>evaluation</dt><dd>1</dd>" in page
    assert "Topics that reinforcement learning never saw." in page
