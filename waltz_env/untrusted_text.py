"""Text from strangers and models, made safe for encoders and chat templates."""

from __future__ import annotations

import re


def encodable(text: str) -> str:
    r"""Replace lone surrogates, which UTF-8 cannot encode, with question marks.

    >>> encodable("a\ud800b")
    'a?b'
    """
    return text.encode("utf-8", errors="replace").decode("utf-8")


def without_tokens(text: str, tokens: re.Pattern[str]) -> str:
    """Put a space after the first character of every match of ``tokens``, so that no text ends its own turn.

    The result is also ``encodable``.
    """
    return tokens.sub(lambda match: f"{match[0][0]} {match[0][1:]}", encodable(text))
