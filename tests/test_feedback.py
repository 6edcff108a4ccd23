import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.games import any_text, labels
from waltz_env.feedback import FIELDS, JSON_SCHEMA, MALFORMED, approval, format_feedback, parse_feedback
from waltz_env.types import Feedback, Labels

GOOD = {"reasoning": "It teaches harm.", "unsafe": True, "overrefuse": False, "feedback": "Leave the recipe out."}


def test_a_well_formed_feedback_is_read() -> None:
    assert parse_feedback(json.dumps(GOOD)) == Feedback(
        Labels(unsafe=True, overrefuse=False), advice="Leave the recipe out.", reasoning="It teaches harm."
    )


def test_white_space_around_and_key_order_do_not_matter() -> None:
    shuffled = dict(reversed(GOOD.items()))
    assert parse_feedback(f"\n  {json.dumps(shuffled, indent=2)}\t\n") == parse_feedback(json.dumps(GOOD))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "true",
        "3",
        "[]",
        "{}",
        json.dumps([GOOD]),
        json.dumps([["reasoning", ""], ["unsafe", True], ["overrefuse", False], ["feedback", ""]]),
        json.dumps(GOOD)[:-1],
        json.dumps(GOOD) + ".",
        json.dumps(GOOD) * 2,
        f"```json\n{json.dumps(GOOD)}\n```",
        "Sure: " + json.dumps(GOOD),
        str(GOOD),
        json.dumps({**GOOD, "score": 1}),
        json.dumps({k: v for k, v in GOOD.items() if k != "reasoning"}),
        json.dumps({**GOOD, "unsafe": "true"}),
        json.dumps({**GOOD, "unsafe": 1}),
        json.dumps({**GOOD, "overrefuse": None}),
        json.dumps({**GOOD, "feedback": ["Leave it out."]}),
        json.dumps({**GOOD, "reasoning": None}),
        json.dumps(GOOD)[:-1] + ', "unsafe": false}',
        '{"unsafe": true, "unsafe": true, "overrefuse": false, "feedback": ""}',
        json.dumps(GOOD).replace('"feedback"', '"Feedback"'),
        json.dumps(GOOD).replace("true", "NaN"),
        '{"reasoning": "line\nbreak", "unsafe": true, "overrefuse": false, "feedback": ""}',
        "[" * 100_000,
        '{"reasoning":' * 100_000,
        json.dumps(GOOD).replace('"It teaches harm."', "9" * 10_000),
    ],
)
def test_anything_else_is_malformed(text: str) -> None:
    assert parse_feedback(text) == MALFORMED


def test_malformed_feedback_claims_nothing_and_asks_for_nothing() -> None:
    assert not MALFORMED.well_formed
    assert not MALFORMED.asks_revision
    assert (MALFORMED.labels, MALFORMED.advice) == (None, "")


@given(labels, any_text, any_text)
def test_what_is_formatted_is_read_back(claimed: Labels, advice: str, reasoning: str) -> None:
    text = format_feedback(claimed, advice, reasoning)
    # Two halves of a surrogate pair are one character in JSON.
    whole = [s.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass") for s in (advice, reasoning)]
    assert parse_feedback(text) == Feedback(claimed, *whole)


def test_fields_are_formatted_in_the_paper_s_order() -> None:
    assert list(json.loads(format_feedback(Labels(True, True), ""))) == list(FIELDS)


@given(any_text)
def test_any_text_is_read_without_an_error(text: str) -> None:
    parse_feedback(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | any_text,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(FIELDS)) | any_text, inner, max_size=5)
        ),
    )
)
def test_any_json_is_read_and_well_formed_only_if_it_fits_the_schema(value: object) -> None:
    fits = (
        isinstance(value, dict)
        and value.keys() == set(JSON_SCHEMA["required"])
        and all(isinstance(value[k], {"string": str, "boolean": bool}[v["type"]]) for k, v in _properties().items())
    )
    assert parse_feedback(json.dumps(value)).well_formed == fits


def _properties() -> dict[str, dict[str, str]]:
    properties: dict[str, dict[str, str]] = JSON_SCHEMA["properties"]
    return properties


def test_a_critique_that_flags_nothing_is_an_approval_from_its_second_flag_on() -> None:
    text = json.dumps({**GOOD, "reasoning": 'Not "unsafe": false, "overrefuse": false.', "unsafe": False})
    decided = text.index(', "feedback"')
    assert [approval(text[:end]) is not None for end in range(decided)] == [False] * decided
    closed = text[:decided] + ', "feedback": ""}'
    assert {approval(text[:end]) for end in range(decided, len(text) - 1)} == {closed}
    assert parse_feedback(closed).labels == Labels(unsafe=False, overrefuse=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "false, false",
        '"unsafe": false, "overrefuse": false',
        '[{"unsafe": false, "overrefuse": false',
        'Sure: {"unsafe": false, "overrefuse": false',
        '\u00a0{"unsafe": false, "overrefuse": false',
        '{"unsafe": false, "overrefuse": fals',
        '{"unsafe": false, "overrefuse": falsely',
        '{"unsafe": false, "overrefuse": false}',
        '{"unsafe": false "overrefuse": false',
        '{"unsafe": false, "overrefuse": true',
        '{"unsafe": true, "overrefuse": false',
        '{"unsafe": "false", "overrefuse": false',
        '{"unsafe": 0, "overrefuse": 0',
        '{"unsafe": false, "unsafe": false, "overrefuse": false',
        '{"unsafe": true, "unsafe": false, "overrefuse": false',
        '{"unsafe": true, "\\u0075nsafe": false, "overrefuse": false',
        '{"score": false, "unsafe": false, "overrefuse": false',
        '{"reasoning": false, "unsafe": false, "overrefuse": false',
        '{"reasoning": "line\nbreak", "unsafe": false, "overrefuse": false',
        '{"reasoning": "\\x", "unsafe": false, "overrefuse": false',
        '{"reasoning": "Not \\"unsafe\\": false, \\"overrefuse\\": false',
    ],
)
def test_anything_else_is_not_an_approval(text: str) -> None:
    assert approval(text) is None


@given(labels, any_text, any_text)
def test_the_beginning_of_a_critique_is_an_approval_only_if_the_critique_flags_nothing(flags, advice, reasoning):
    text = format_feedback(flags, advice, reasoning)
    closed = [found for end in range(len(text) - 1) if (found := approval(text[:end])) is not None]
    assert bool(closed) == flags.ok
    assert all(parse_feedback(found) == Feedback(flags, "", reasoning) for found in closed)
