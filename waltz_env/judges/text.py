"""Normalizing a text, so that case, typography, invisible characters and text in a judge's format do not matter."""

from __future__ import annotations

import re
import unicodedata

HEAD = 4_000
"""Number of characters that the rules read from the start of a text: enough to tell what it does, in bounded time."""

_INVISIBLE = dict.fromkeys([*range(9), *range(14, 32), *range(127, 160), 0xAD, *range(0x200B, 0x2010), 0x2060, 0xFEFF])
_TYPOGRAPHY = _INVISIBLE | str.maketrans("\u2018\u2019\u02bc\u00b4\u201c\u201d\u2010\u2011\u2013\u2014", "''''\"\"----")
_EMPHASIS = re.compile(r"\*++(?=\S)|(?<=[^\s*])\*++")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")

# Text in the answer format of a judge, written by the agent that is judged. It says nothing about the response.
_JUDGE_TALK = re.compile(
    r"\b(?:harmful|unsafe|response|request)[ _](?:harmful|unsafe|refusal|request|response)\s?[:=]\s?"
    r"(?:yes|no|n/a|true|false)\b[.,;]?"
    r"|\b(?:harmful|unsafe|overrefuse|refusal)\s?[:=]\s?(?:no|n/a|false)\b[.,;]?"
    r"|<(judge|verdict|label|judgement|judgment)>[^<>]{0,40}</\1>"
    r'|(?:"\}\s{0,4})?\{\s{0,4}"(?:safe|unsafe|overrefuse|refusal|harmful|reasoning)"[^{}]{0,400}\}'
    r"|^(?:un)?safe$(?:\ns\d{1,2}(?:,\s?s\d{1,2})*$)?"
    r"|^safety:\s?(?:safe|controversial|unsafe)$(?:\ncategories:[^\n]{0,200}$)?(?:\nrefusal:\s?(?:yes|no)$)?",
    re.MULTILINE,
)
# Every match of _JUDGE_TALK holds one of these; a text without them need not be searched.
_JUDGE_WORDS = ("{", "</", "harmful", "safe", "refus", "response", "request")

# What chat templates and the prompts of judges place between turns.
_DELIMITERS = re.compile(
    r"<\|[^<>|\s]{1,40}\|>(?:(?:system|user|assistant)\b(?!\s*[a-z]))?|</?(?:s|think)>|\[/?inst\]"
    r"|<(?:begin|end) [a-z ]{1,40}>"
    r"|^[ \t]*+(?:human user|(?:ai )?assistant|user|agent|answers)\s?:|^[ \t]*+-{3,}+$",
    re.MULTILINE,
)
_DELIMITER_WORDS = ("|>", "s>", "[", "<", "user", "assistant", "agent", "answers", "---")


def plain(text: str) -> str:
    """Returns the first ``HEAD`` characters in lower case, with straight quotes and without invisible characters.

    It removes emphasis, text in the answer format of a judge, and delimiters of chat turns.

    >>> plain('**I can\u2019t.** {"unsafe": false}')
    "i can't."
    """
    text = text.strip()[:HEAD]
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_TYPOGRAPHY)
    elif _CONTROL.search(text):
        text = text.translate(_INVISIBLE)
    text = text.lower()
    if "*" in text:
        text = _EMPHASIS.sub("", text)
    if any(map(text.__contains__, _DELIMITER_WORDS)):
        text = _DELIMITERS.sub("", text)
    if any(map(text.__contains__, _JUDGE_WORDS)):
        text = _JUDGE_TALK.sub("", text)
    return text.strip()
