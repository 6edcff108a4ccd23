"""How long does a report with many games take to open, filter and search in headless Chromium?

Games consist of random words in the lengths that language models write: responses of 20 to 200 words, feedback of 60.
Each repetition starts a new browser, so nothing is cached. Opening lasts from the start of the navigation until the
first game is shown; filtering and searching, until the list shows the result. Needs Chromium and its driver.

    PYTHONPATH=. python benchmarks/report_open.py                  # 20,000 games
    PYTHONPATH=. python benchmarks/report_open.py --games 100000
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.browser import chromium, open_report, wait
from waltz_env.evaluation import rates
from waltz_env.feedback import format_feedback, parse_feedback
from waltz_env.report.page import write_report
from waltz_env.report.tables import Source
from waltz_env.types import Completion, Critique, Judgement, Kind, Labels, Prompt, Response, Trajectory

LABELS = (Labels(False, False), Labels(True, False), Labels(False, True))
SYSTEMS = ("baseline", "untrained_pair", "oracle_feedback", "trained_pair")


def vocabulary(rng: random.Random) -> list[str]:
    """Words of 2 to 10 letters."""
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 10))) for _ in range(5_000)]


def game(rng: random.Random, words: list[str], number: int, *, alone: bool) -> Trajectory:
    """One game whose revision keeps most words of the draft."""
    draft = rng.choices(words, k=rng.randint(20, 200))
    labels = rng.choice(LABELS)
    prompt = Prompt(" ".join(rng.choices(words, k=rng.randint(8, 60))), rng.choice(list(Kind)), id=f"{number}")
    responses = [Response(Completion(" ".join(draft)), Judgement(labels, "random"))]
    if alone:
        return Trajectory(prompt, tuple(responses), ())
    text = format_feedback(labels, " ".join(rng.choices(words, k=30)), " ".join(rng.choices(words, k=30)))
    if not labels.ok:
        revision = [rng.choice(words) if rng.random() < 0.3 else word for word in draft]
        responses.append(Response(Completion(" ".join(revision)), Judgement(rng.choice(LABELS), "random")))
    return Trajectory(prompt, tuple(responses), (Critique(Completion(text), parse_feedback(text)),))


def source(count: int) -> Source:
    """``count`` games from four systems."""
    rng = random.Random(0)
    words = vocabulary(rng)
    games = {
        ("random", system): [game(rng, words, n, alone=system == "baseline") for n in range(count // len(SYSTEMS))]
        for system in SYSTEMS
    }
    systems = {
        system: {metric: rate.as_dict() for metric, rate in rates(each).items()} for (_, system), each in games.items()
    }
    return Source("random words", Path(), {"sets": {"random": {"systems": systems}}}, (), {}, games)


def seconds(driver: Chrome, action: Callable[[], object]) -> float:
    """Seconds from an action until the status line shows a count of games."""
    before = driver.find_element(By.ID, "status").text
    start = time.perf_counter()
    action()

    def settled() -> bool:
        status = driver.find_element(By.ID, "status").text
        return status != before and not status.startswith("Searching")

    wait(driver, settled, 120)
    return time.perf_counter() - start


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=20_000)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    shown = source(arguments.games)
    measured: dict[str, list[float]] = {"open": [], "filter": [], "first search": [], "next search": []}
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        start = time.perf_counter()
        write_report(page, [shown])
        spent = time.perf_counter() - start
        print(f"{arguments.games} games, {page.stat().st_size / 1e6:.1f} MB, written in {spent:.1f} s")
        for _ in range(arguments.repetitions):
            with chromium() as driver:
                measured["open"].append(open_report(driver, page))
                improved = driver.find_element(By.ID, "fact-improved")
                measured["filter"].append(seconds(driver, improved.click))
                driver.find_element(By.ID, "clear").click()
                typing = driver.find_element(By.ID, "query").send_keys
                measured["first search"].append(seconds(driver, partial(typing, "zq")))
                measured["next search"].append(seconds(driver, partial(typing, "x")))
    for name, values in measured.items():
        print(f"{name}: median {statistics.median(values):.2f} s, worst {max(values):.2f} s of {len(values)}")


if __name__ == "__main__":
    main()
