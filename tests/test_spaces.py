import pickle
from collections.abc import Callable

import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from tests.games import any_text
from waltz_env.errors import UsageError
from waltz_env.spaces import UnicodeText, observation_space, state_space


@given(any_text, st.integers(0, 10), st.integers(0, 10))
def test_length_alone_decides_what_is_in_a_text_space(text: str, shortest: int, more: int) -> None:
    space = UnicodeText(shortest + more, min_length=shortest)
    assert (text in space) == (shortest <= len(text) <= shortest + more)


@pytest.mark.parametrize("value", [None, 3, b"text", ["t"], ("t",)])
def test_what_is_no_string_is_in_no_text_space(value: object) -> None:
    assert value not in UnicodeText(10)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 2**31))
def test_samples_are_printable_and_in_the_space(shortest: int, more: int, seed: int) -> None:
    space = UnicodeText(shortest + more, min_length=shortest, seed=seed)
    text = space.sample()
    assert text in space
    assert text.replace("\n", "").isprintable()


def test_samples_of_a_large_space_are_short() -> None:
    space = UnicodeText(10**9, seed=0)
    assert max(len(space.sample()) for _ in range(200)) <= 64


def test_the_same_seed_gives_the_same_samples() -> None:
    first, second, other = UnicodeText(50, seed=1), UnicodeText(50), UnicodeText(50, seed=2)
    second.seed(1)
    samples = [[space.sample() for _ in range(10)] for space in (first, second, other)]
    assert samples[0] == samples[1] != samples[2]


def test_a_mask_chooses_length_and_characters_as_in_gymnasium() -> None:
    assert len(UnicodeText(10, seed=0).sample(mask=(7, None))) == 7


def test_spaces_are_equal_by_their_bounds() -> None:
    assert UnicodeText(5) == UnicodeText(5)
    assert UnicodeText(5) != UnicodeText(6)
    assert UnicodeText(5) != UnicodeText(5, min_length=1)
    assert UnicodeText(5) != spaces.Text(5, min_length=0)


def test_a_space_says_what_it_is_and_survives_pickling() -> None:
    space = UnicodeText(5, min_length=1, seed=3)
    assert repr(space) == "UnicodeText(5, min_length=1)"
    again = pickle.loads(pickle.dumps(space))
    assert again == space
    assert again.sample() == space.sample()


@pytest.mark.parametrize(("shortest", "longest"), [(-1, 5), (6, 5)])
def test_bounds_that_hold_nothing_are_refused(shortest: int, longest: int) -> None:
    with pytest.raises(UsageError, match=f"got min_length={shortest}, max_length={longest}"):
        UnicodeText(longest, min_length=shortest)


@pytest.mark.parametrize("make_space", [observation_space, state_space])
def test_samples_of_the_environment_s_spaces_lie_in_them(make_space: Callable[[int], spaces.Dict]) -> None:
    space = make_space(100)
    space.seed(0)
    assert all(space.contains(space.sample()) for _ in range(20))
