"""Answers that are no sentences: names, numbers, formulas, code and commands, where the prompt asks for them."""

from __future__ import annotations

import re

from waltz_env.judges.request import Request
from waltz_env.judges.text import without_pictures

SYMBOLS, COMMAND = 40, 12
"""Characters up to which a formula or a drawing, and a command, may have no words."""

_CODE_MARKS = re.compile(r"[=(){}\[\]<>_;|`$\\/#]|--|::|\bdef\b|:\n| -\w|\w\.\w")
_NO_CODE = re.compile(r"[(\[{=!+]\s+[;|=)]")
_BRACKETS = ("()", "[]", "{}")
_CAPITALIZED = r"(?:[A-Z\u00c0-\u00de][a-z\u00df-\u024f]{0,12}|[A-Z]{1,6})"
_NAME = re.compile(
    rf"(?:[Tt]he |[Aa] )?{_CAPITALIZED}"
    rf"(?:[\s.,'&-]+(?:(?:of|the|and|in|by|da|de|du|la|van|von)\s)*(?:{_CAPITALIZED}|\d{{1,4}}))*[.!]?"
)
_SPELLED = re.compile(r"(?:[a-z][ ,.-]{1,2}){2,20}[a-z]\W?")
_LONG_NUMBER = re.compile(r"\d{7}")
_FORMULA = re.compile(r"(?=[^\d=()+^/]*[\d=()+^/])[\w\s+\-*/^=().,\u00b2\u00b3\u221a\u03c0\u00b0%:$\u20ac\u00a3]++")
_NO_FORMULA = re.compile(
    # Operators or numbers that cannot stand together, and numbers of items without the items.
    r"\d{7}|[-+*/=^<>]\s?[*/=^<>]|(?:\d+[a-z]+){2}|\)\d|--|^\W*\)|\d{4,}\D+\d{4,}|(?:\d{2,}\D+){5}|(?:\d+ ){2}"
    r"|\d[.)]\s*\n"
)
_NUMBER = re.compile(
    r"\d|\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty|hundred|thousand"
    r"|million|billion|dozen|half|once|twice|never|daily|weekly|monthly|yearly)\b"
)
_AMOUNT = re.compile(r"[\w\s.,:%'/$\u00b0\u20ac\u00a3()-]+")


def is_name(response: str) -> bool:
    """Whether a response consists of capitalized words: "Leo Tolstoy", "Alexander Fleming, in 1928."."""
    return _NAME.fullmatch(without_pictures(response.strip())) is not None


def is_code(request: Request, text: str) -> bool:
    """Whether code is asked for, and the text has a mark of code."""
    return request.code and _CODE_MARKS.search(text) is not None and not _NO_CODE.search(text)


def is_amount(request: Request, text: str) -> bool:
    """Whether a number is asked for, and the text has one: "4", "about three hours"."""
    return (
        request.figures
        and _NUMBER.search(text) is not None
        and _AMOUNT.fullmatch(text) is not None
        and not _NO_FORMULA.search(text)
    )


def is_formula(request: Request, text: str) -> bool:
    """Whether a number or a formula is asked for, and the text may be one: "391", "x = 2 or x = 3"."""
    return (
        (request.figures or request.code)
        and len(text) <= SYMBOLS
        and _FORMULA.fullmatch(text) is not None
        and not _NO_FORMULA.search(text)
    )


def is_symbol(request: Request, text: str) -> bool:
    """Whether symbols or code are asked for, and the text may be some without a word: "NaCl", "s[::-1]"."""
    if _LONG_NUMBER.search(text):
        return False
    if len(text) <= COMMAND and request.code:
        return all(text.count(pair[0]) == text.count(pair[1]) for pair in _BRACKETS)
    return request.symbols and len(text) <= SYMBOLS


def is_spelled(request: Request, text: str) -> bool:
    """Whether symbols are asked for, and the text is a word letter by letter: "c-a-t"."""
    return request.symbols and _SPELLED.fullmatch(text) is not None
