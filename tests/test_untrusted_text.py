from __future__ import annotations

import re

from waltz_env.untrusted_text import encodable, without_tokens


def test_lone_surrogates_become_question_marks_and_all_else_stays() -> None:
    assert encodable("a\ud800b 你好 \U0001f600\x00") == "a?b 你好 \U0001f600\x00"


def test_every_token_is_broken_by_a_space_after_its_first_character() -> None:
    tokens = re.compile(r"<\|\w+\|>")
    assert without_tokens("a<|end|>b\ud800<|end|>", tokens) == "a< |end|>b?< |end|>"
