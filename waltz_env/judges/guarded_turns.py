"""A conversation in the form that the chat templates of guard models expect."""

from __future__ import annotations

import re
from itertools import groupby

from waltz_env.judges.untrusted import defused
from waltz_env.types import Message, Prompt


def guarded_turns(prompt: Prompt, response: str | None, *, names: re.Pattern[str]) -> list[Message]:
    """Returns the text to check as turns of user and assistant, which alternate and begin with the user.

    The templates tell from the last turn whose turn is checked: the user's, or the assistant's. Turns of other roles
    are therefore left out, and successive turns of one role are joined.

    Args:
        prompt: the prompt with its history.
        response: the assistant's last turn; None: the prompt itself is checked.
        names: what the template or the guard's answer writes before a colon, such as ``User``. A space is put after
            each match in the texts. Control tokens are broken up as well.
    """
    turns = [*prompt.history, Message(role="user", content=prompt.text)]
    spoken = [turn for turn in turns if turn["role"] in ("user", "assistant")]
    while spoken[0]["role"] != "user":
        del spoken[0]
    merged = [
        Message(role=role, content="\n\n".join(_defused(turn["content"], names) for turn in together))
        for role, together in groupby(spoken, key=lambda turn: turn["role"])
    ]
    return merged if response is None else [*merged, Message(role="assistant", content=_defused(response, names))]


def _defused(text: str, names: re.Pattern[str]) -> str:
    return names.sub(r"\g<0> ", defused(text))
