from __future__ import annotations

import pytest

from waltz_env.algorithms.registry import ALGORITHMS, algorithm
from waltz_env.algorithms.surrogate import SurrogateConfig


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_included_algorithm_takes_the_common_settings(name: str) -> None:
    assert isinstance(algorithm(name), SurrogateConfig)
