"""A real headless Chromium, for pages that are opened from a file."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

from waltz_env.errors import UsageError

# Nothing is asked of the network, neither by the page nor by the browser itself.
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1280,1000"
).split()


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own, and its console kept in the log ``browser``."""
    paths = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if not all(paths.values()):
        raise UsageError("Needs Chromium and its driver; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(paths["chromium"])
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(paths["chromedriver"])))
        try:
            yield driver
        finally:
            driver.quit()


def open_report(driver: webdriver.Chrome, page: Path) -> float:
    """Opens a report and waits until its first game is shown: seconds since the navigation began."""
    driver.get(page.resolve().as_uri())
    mark = "return performance.getEntriesByName('games-shown')[0]?.startTime"
    return float(wait(driver, lambda: driver.execute_script(mark))) / 1000


def wait(driver: webdriver.Chrome, condition: Any, seconds: float = 30.0) -> Any:
    """Waits until ``condition()`` is true, and gives what it gave."""
    return WebDriverWait(driver, seconds, poll_frequency=0.02).until(lambda _: condition())
