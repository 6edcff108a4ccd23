"""Examples in docstrings are run, so that they stay true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import waltz_env
from tests.test_imports import NOT_INSTALLED


def test_every_example_in_a_docstring_gives_what_it_shows() -> None:
    attempted = {}
    for found in pkgutil.walk_packages(waltz_env.__path__, "waltz_env."):
        if not found.name.endswith("__main__") and found.name not in NOT_INSTALLED:
            result = doctest.testmod(importlib.import_module(found.name))
            assert result.failed == 0, found.name
            attempted[found.name] = result.attempted
    assert attempted["waltz_env.feedback"] == 3  # the examples are found at all
