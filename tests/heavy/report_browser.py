"""A report in a real headless Chromium: clicks, keys, hostile texts, many games.

Not part of the default suite: ``make test-report``. Pages are opened from files; nothing is asked of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from tests.browser import chromium, open_report, wait
from tests.games import BOMB, PROCESS, REFUSING, SAFE, UNSAFE, critique, trajectory
from waltz_env import Trajectory
from waltz_env.evaluation import compare_judges, same_labels
from waltz_env.experiments.results import add_systems
from waltz_env.report.page import write_report
from waltz_env.report.source import read_source
from waltz_env.report.tables import Source
from waltz_env.run_folder import RunFolder
from waltz_env.types import Completion, Critique, Feedback, Judgement, Kind, Labels, Message, Prompt, Response

ATTACKS = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<svg onload='window.hacked = 1'>",
    "javascript:window.hacked = 1",
    "<!--<script>window.hacked = 1//",
    "';window.hacked = 1;//\u2028window.hacked = 1",
    "{{ 7 * 7 }}${window.hacked = 1}",
)


def say(text: str, labels: Labels | None = SAFE) -> Response:
    return Response(Completion(text), None if labels is None else Judgement(labels, "hand", "by hand"))


PAIR = [
    Trajectory(BOMB, (say("I will tell you how.", UNSAFE), say("I will not tell you how.")), (critique(UNSAFE),)),
    Trajectory(PROCESS, (say("Type kill."), say("I cannot help.", REFUSING)), (critique(UNSAFE),)),
    trajectory([SAFE], [SAFE], PROCESS),
    trajectory([UNSAFE], [None]),
    Trajectory(BOMB, trajectory([UNSAFE, UNSAFE, SAFE]).responses, (critique(UNSAFE), critique(UNSAFE, "Zebra."))),
    Trajectory(BOMB, (say("Nobody judged this.", None),), (critique(SAFE),)),
]
ALONE = [trajectory([UNSAFE]), trajectory([SAFE], prompt=PROCESS)]


def source(name: str, sets: dict[str, dict[str, list[Trajectory]]]) -> Source:
    results: dict[str, Any] = {
        "sets": {each: {"systems": {system: {} for system in systems}} for each, systems in sets.items()}
    }
    games = {(each, system): games for each, systems in sets.items() for system, games in systems.items()}
    return Source(name, Path(name), results, (), {}, games)


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with chromium() as driver:
        yield driver


@pytest.fixture
def open_sources(browser: Chrome, tmp_path: Path) -> Iterator[Callable[[Sequence[Source]], Chrome]]:
    """Opens a report; at the end, nothing may have gone wrong in it."""

    def opened(sources: Sequence[Source]) -> Chrome:
        write_report(tmp_path / "report.html", sources)
        open_report(browser, tmp_path / "report.html")
        return browser

    yield opened
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return window.hacked === undefined")


@pytest.fixture
def page(open_sources: Callable[[Sequence[Source]], Chrome]) -> Chrome:
    return open_sources([source("run", {"one": {"baseline": ALONE, "trained_pair": PAIR}, "two": {"baseline": ALONE}})])


def shown(page: Chrome) -> list[int]:
    """Numbers of the games in the list, as the page counts them."""
    rows = "return [...document.querySelectorAll('#rows .row')].map((row) => [row.ariaPosInSet, row.id])"
    found = sorted((int(place), name) for place, name in page.execute_script(rows))
    return [int(name.removeprefix("row-")) + 1 for _, name in found]


def status(page: Chrome) -> str:
    return page.find_element(By.ID, "status").text


def game(page: Chrome) -> str:
    return page.find_element(By.ID, "game").text


def number(page: Chrome) -> str:
    return page.find_element(By.CSS_SELECTOR, "#game h3").text


def choose(page: Chrome, name: str, text: str) -> None:
    Select(page.find_element(By.ID, f"filter-{name}")).select_by_visible_text(text)


def press(page: Chrome, *keys: str) -> None:
    ActionChains(page).send_keys(*keys).perform()


def show(page: Chrome, row: int) -> None:
    """Clicks on the row of a game, by its number."""
    page.find_element(By.ID, f"row-{row - 1}").click()
    wait(page, lambda: number(page) == f"Game {row}")


def test_games_are_filtered_by_category_which_the_list_shows(
    open_sources: Callable[[Sequence[Source]], Chrome],
) -> None:
    coded, hostile = (replace(BOMB, category=name) for name in ("coded-2", ATTACKS[1]))
    games = [trajectory([UNSAFE], prompt=prompt) for prompt in (coded, BOMB, hostile, coded)]
    page = open_sources([source("run", {"one": {"baseline": games}})])
    assert "harmful · coded-2 · baseline · one" in page.find_element(By.ID, "row-0").text
    assert "harmful · baseline · one" in page.find_element(By.ID, "row-1").text
    for name, found in (("coded-2", [1, 4]), ("(none)", [2]), (ATTACKS[1], [3]), ("any", [1, 2, 3, 4])):
        choose(page, "category", name)
        wait(page, lambda found=found: shown(page) == found)


def test_one_category_is_no_choice(page: Chrome) -> None:
    assert not page.find_elements(By.ID, "filter-category")


def test_the_first_game_is_open_and_all_are_listed(page: Chrome) -> None:
    assert status(page) == "10 of 10 games"
    assert shown(page) == list(range(1, 11))
    assert number(page) == "Game 1"
    assert "No feedback in this game." in game(page)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("set", "two", [9, 10]),
        ("system", "trained pair", [3, 4, 5, 6, 7, 8]),
        ("kind", "benign", [2, 4, 5, 10]),
        ("draft", "unsafe", [1, 3, 6, 7, 9]),
        ("draft", "not judged", [8]),
        ("final", "overrefusing", [4]),
        ("claimed", "malformed", [6]),
        ("claimed", "no feedback", [1, 2, 9, 10]),
    ],
)
def test_each_list_filters(page: Chrome, name: str, text: str, expected: list[int]) -> None:
    choose(page, name, text)
    wait(page, lambda: shown(page) == expected)
    assert status(page) == f"{len(expected)} of 10 games"
    wait(page, lambda: number(page) == f"Game {expected[0]}")


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        ("triggered", [3, 4, 7]),
        ("improved", [3, 7]),
        ("worsened", [4]),
        ("malformed", [6]),
        ("mistaken", [4]),
        ("unjudged", [8]),
    ],
)
def test_each_button_filters_and_counts(page: Chrome, fact: str, expected: list[int]) -> None:
    button = page.find_element(By.ID, f"fact-{fact}")
    assert button.find_element(By.CLASS_NAME, "count").text == str(len(expected))
    button.click()
    wait(page, lambda: shown(page) == expected)
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    wait(page, lambda: shown(page) == list(range(1, 11)))


def test_filters_work_together_and_are_cleared(page: Chrome) -> None:
    choose(page, "system", "trained pair")
    choose(page, "kind", "harmful")
    page.find_element(By.ID, "fact-improved").click()
    wait(page, lambda: shown(page) == [3, 7])
    page.find_element(By.ID, "fact-worsened").click()
    wait(page, lambda: status(page) == "No game matches these filters.")
    assert game(page) == ""
    page.find_element(By.ID, "clear").click()
    wait(page, lambda: shown(page) == list(range(1, 11)))
    assert Select(page.find_element(By.ID, "filter-kind")).first_selected_option.text == "any"


def test_a_revision_marks_what_it_changed(page: Chrome) -> None:
    show(page, 3)
    text = game(page)
    for expected in ("harmful", "judge: unsafe", "claims: unsafe", "right label", "judge: satisfactory", "improved"):
        assert expected in text
    (diff,) = page.find_elements(By.CSS_SELECTOR, "#game .diff")
    assert [each.text.strip() for each in diff.find_elements(By.TAG_NAME, "ins")] == ["not"]
    assert diff.find_elements(By.TAG_NAME, "del") == []
    press(page, "d")
    wait(page, lambda: not page.find_elements(By.CSS_SELECTOR, "#game .diff"))
    assert "I will not tell you how." in game(page)
    press(page, "d")
    wait(page, lambda: page.find_elements(By.CSS_SELECTOR, "#game .diff"))


def test_a_game_of_several_rounds_shows_every_turn(page: Chrome) -> None:
    show(page, 7)
    titles = [each.text.split(" ")[:2] for each in page.find_elements(By.CSS_SELECTOR, "#game .turn h4")]
    assert titles[1:] == [
        ["Draft", "c0"],
        ["Feedback", "f0"],
        ["Revision", "c1"],
        ["Feedback", "f1"],
        ["Revision", "c2"],
    ]
    assert "Zebra." in game(page)


def test_malformed_feedback_and_games_without_a_verdict_are_shown_as_such(page: Chrome) -> None:
    show(page, 6)
    assert "malformed" in game(page)
    assert "not JSON" in game(page)
    show(page, 8)
    assert "not judged" in game(page)
    assert "right label" not in game(page)


def test_other_games_on_the_same_prompt_are_one_click_away(page: Chrome) -> None:
    show(page, 3)
    buttons = page.find_elements(By.CSS_SELECTOR, ".alike button")
    assert [button.get_attribute("data-game") for button in buttons] == ["0", "2", "5", "6", "7"]
    assert [button.get_attribute("aria-current") for button in buttons] == [None, "true", None, None, None]
    buttons[0].click()
    wait(page, lambda: number(page) == "Game 1")


@pytest.mark.parametrize(
    ("text", "expected"), [("ZEBRA", [7]), ("not tell you", [3]), ("kill a process", [2, 4, 5, 10]), (".*", [])]
)
def test_the_search_finds_every_text_in_any_case(page: Chrome, text: str, expected: list[int]) -> None:
    press(page, "/")
    press(page, text)
    wait(page, lambda: shown(page) == expected)
    if expected:
        wait(page, lambda: number(page) == f"Game {expected[0]}")
        found = page.find_elements(By.CSS_SELECTOR, "#game mark")
        assert all((each.get_attribute("textContent") or "?").lower() in text.lower() for each in found)
        assert found or text == "not tell you"  # across a change, a phrase is found but not marked


def test_keys_walk_the_list(page: Chrome) -> None:
    for key, expected in [("j", 2), ("j", 3), ("k", 2), ("k", 1), ("k", 1)]:
        press(page, key)
        wait(page, lambda expected=expected: number(page) == f"Game {expected}")
    page.find_element(By.ID, "list").click()
    page.find_element(By.ID, "row-0").click()
    for key, expected in [
        (Keys.ARROW_DOWN, 2),
        (Keys.END, 10),
        (Keys.ARROW_UP, 9),
        (Keys.HOME, 1),
        (Keys.PAGE_DOWN, 10),
    ]:
        press(page, key)
        wait(page, lambda expected=expected: number(page) == f"Game {expected}")
    listed = page.find_element(By.ID, "list")
    assert listed.get_attribute("aria-activedescendant") == "row-9"
    assert page.find_element(By.ID, "row-9").get_attribute("aria-selected") == "true"


def test_keys_are_letters_in_the_search_box_and_escape_leaves_it(page: Chrome) -> None:
    press(page, "/", "j", "k")
    assert page.find_element(By.ID, "query").get_attribute("value") == "jk"
    press(page, Keys.ESCAPE)
    assert page.switch_to.active_element.get_attribute("id") == "list"


def test_the_help_opens_and_closes(page: Chrome) -> None:
    press(page, "?")
    assert page.find_element(By.ID, "help").is_displayed()
    page.find_element(By.CSS_SELECTOR, "#help button").click()
    assert not page.find_element(By.ID, "help").is_displayed()
    page.find_element(By.ID, "help-open").click()
    press(page, Keys.ESCAPE)
    wait(page, lambda: not page.find_element(By.ID, "help").is_displayed())


def test_a_link_opens_its_game(page: Chrome) -> None:
    press(page, "j")
    wait(page, lambda: page.current_url.endswith("#game-2"))
    page.get(page.current_url.replace("#game-2", "#game-7"))
    wait(page, lambda: number(page) == "Game 7")
    page.refresh()
    wait(page, lambda: number(page) == "Game 7")


def test_the_theme_button_changes_the_colours(page: Chrome) -> None:
    colors = set()
    for _ in range(2):
        page.find_element(By.ID, "theme").click()
        colors.add(page.find_element(By.TAG_NAME, "body").value_of_css_property("background-color"))
    assert len(colors) == 2


@pytest.fixture
def two_judges(open_sources: Callable[[Sequence[Source]], Chrome]) -> Chrome:
    """The games of ``PAIR``; the earlier judge found everything unsafe that it judged."""
    earlier = [
        replace(game, responses=tuple(replace(each, judgement=Judgement(UNSAFE, "first")) for each in game.responses))
        for game in PAIR
    ]
    run = source("run", {"one": {"trained_pair": PAIR}})
    rates = {name: each.as_dict() for name, each in compare_judges(earlier, PAIR).items()}
    agreement = {
        "judges": ["first", "a-judge-with-a-long-name:on/a-model-with-a-long-name"],
        "same_labels": same_labels(earlier, PAIR).as_dict(),
        "rates": rates,
    }
    results = {**run.results, "judge_agreement": {"one": {"trained_pair": agreement}}}
    return open_sources([replace(run, results=results, earlier={("one", "trained_pair"): earlier})])


def test_games_on_which_two_judges_differ_can_be_found(two_judges: Chrome) -> None:
    choose(two_judges, "earlier", "unsafe")
    wait(two_judges, lambda: status(two_judges) == "6 of 6 games")
    two_judges.find_element(By.ID, "fact-differ").click()
    wait(two_judges, lambda: shown(two_judges) == [1, 2, 3, 5])
    for badge in ("judge: satisfactory", "earlier judge: unsafe"):
        assert badge in game(two_judges)
    assert "Earlier judge first" in game(two_judges)


def test_a_page_of_one_judge_has_no_filters_for_two(page: Chrome) -> None:
    assert page.find_elements(By.ID, "filter-final")
    assert not page.find_elements(By.ID, "filter-earlier")
    assert not page.find_elements(By.ID, "fact-differ")


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_the_table_of_two_judges_can_be_read_at_every_width(two_judges: Chrome, width: int) -> None:
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    two_judges.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        for heading in two_judges.find_elements(By.CSS_SELECTOR, "table.judges th"):
            assert heading.size["width"] >= 45, heading.text
        assert two_judges.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        two_judges.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


FIGURES = """
return [...document.querySelectorAll("figure svg")].map((svg) => {
  const box = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")];
  const scale = box.width / svg.viewBox.baseVal.width;
  const outside = texts.filter((text) => {
    const own = text.getBoundingClientRect();
    return own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1 || own.bottom > box.bottom + 1;
  });
  const sizes = texts.map((text) => parseFloat(getComputedStyle(text).fontSize) * scale);
  return {outside: outside.map((text) => text.textContent), smallest: Math.min(...sizes)};
});
"""


@pytest.mark.parametrize("width", [360, 390, 1280])
@pytest.mark.parametrize("systems", [1, 5, 12])
def test_every_chart_can_be_read_at_every_width(
    width: int, systems: int, open_sources: Callable[[Sequence[Source]], Chrome], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    names = ["trained_pair", "baseline_safeguard", "single_model_rl_safeguard"]
    names += [f"a-run-with-a-rather-long-name-and-its-number-{number}" for number in range(systems)]
    for name in names[:systems]:
        add_systems(folder, {"topics": {name: PAIR}})
    metrics = [{"step": 1 + step, "stage": "1", "games/asr": 0.5, "reward/feedback": 0.1} for step in range(9)]
    page = open_sources([replace(read_source(folder, "run"), metrics=metrics)])
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        page.execute_script("document.querySelectorAll('details').forEach((each) => (each.open = true))")
        figures = page.execute_script(FIGURES)
        assert len(figures) == 6
        assert [figure["outside"] for figure in figures] == [[]] * 6
        assert min(figure["smallest"] for figure in figures) >= 8.5
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_theme_button_says_what_it_does(page: Chrome) -> None:
    button = page.find_element(By.ID, "theme")
    words = []
    for _ in range(2):
        words.append(button.text)
        button.click()
    assert sorted(words) == ["Dark", "Light"]


def test_every_control_has_a_name(page: Chrome) -> None:
    for control in page.find_elements(By.CSS_SELECTOR, "button, select, input, [role=listbox], svg[role=img], #game"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_text_is_shown_and_does_not_run(
    open_sources: Callable[[Sequence[Source]], Chrome], attack: str
) -> None:
    prompt = Prompt(attack, Kind.HARMFUL, attack, attack, attack, attack, (Message(role=attack, content=attack),))
    verdict = Judgement(UNSAFE, attack, attack, {attack: 0.5})
    responses = (Response(Completion(attack), verdict), Response(Completion(f"{attack} {attack}"), verdict))
    said = Critique(Completion(attack), Feedback(UNSAFE, attack, attack))
    hostile = Trajectory(prompt, responses, (said,))
    run = source(attack, {attack: {attack: [hostile]}})
    agreement = {"judges": [attack, attack], "rates": {"asr": compare_judges([hostile], [hostile])["asr"].as_dict()}}
    results = {**run.results, "judge_agreement": {attack: {attack: agreement}}}
    other = source("b", {attack: {attack: [hostile]}})
    page = open_sources([replace(run, results=results, earlier={(attack, attack): [hostile]}), other])
    for details in page.find_elements(By.CSS_SELECTOR, "#game details:not([open]) > summary"):
        details.click()
    texts = [each.get_attribute("textContent") for each in page.find_elements(By.CSS_SELECTOR, "#game .text")]
    # History, prompt, draft, advice, reasoning, as it was said, revision with its changes.
    assert texts[:6] == [attack] * 6
    assert "".join((texts[6] or "").split()).count("".join(attack.split())) >= 1
    assert page.find_elements(By.CSS_SELECTOR, "#game script, #game img, #game svg, table svg, #rows script") == []
    press(page, "/", "hacked" if "hacked" in attack else "7")
    wait(page, lambda: page.find_elements(By.CSS_SELECTOR, "#game mark"))
    assert status(page) == "2 of 2 games"


def test_the_policy_stops_a_script_that_would_be_in_the_page(browser: Chrome, tmp_path: Path) -> None:
    """That the tests above would notice: the same attack, planted past the escaping, is stopped by the policy alone."""
    path = tmp_path / "report.html"
    write_report(path, [source("run", {"one": {"baseline": ALONE}})])
    planted = path.read_text("utf-8").replace("<main>", "<main><script>window.hacked = 1</script>")
    path.write_text(planted, "utf-8")
    open_report(browser, path)
    assert browser.execute_script("return window.hacked === undefined")
    assert any("Content Security Policy" in line["message"] for line in browser.get_log("browser"))
    path.write_text(planted.replace("Content-Security-Policy", "nothing"), "utf-8")
    open_report(browser, path)
    assert browser.execute_script("return window.hacked") == 1


def test_of_many_games_only_those_in_sight_are_in_the_page(open_sources: Callable[[Sequence[Source]], Chrome]) -> None:
    page = open_sources([source("run", {"one": {"baseline": ALONE * 10_000}})])
    assert status(page) == "20,000 of 20,000 games"
    wait(page, lambda: number(page) == "Game 1")  # by now the list has been painted
    assert len(page.find_elements(By.CLASS_NAME, "row")) < 60
    page.find_element(By.ID, "row-0").click()
    press(page, Keys.END)
    wait(page, lambda: number(page) == "Game 20,000")
    assert len(page.find_elements(By.CLASS_NAME, "row")) < 60
    assert page.find_element(By.ID, "row-19999").is_displayed()
