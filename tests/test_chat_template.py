"""Chats of every shape reach chat templates of every strictness."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from tests.tiny import CHAT_TEMPLATE, tiny_model, tiny_tokenizer
from waltz_env.agents import TEMPLATES, TransformersAgent, full_policy
from waltz_env.chat_template import ChatTemplate, normalized
from waltz_env.errors import UnreadablePromptError, UsageError
from waltz_env.game import Game
from waltz_env.judges import TransformersCompleter
from waltz_env.types import AGENTS, CONVERSATION, AgentID, Kind, Message, Prompt

TURNS = "{% for message in loop_messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
SYSTEM_FIRST = (
    "{% for message in messages %}{% if message.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}{% endfor %}"
)
ALTERNATING = (
    "{% for message in loop_messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% endfor %}"
)
HEAD = (
    "{% if messages[0].role == 'system' %}{% set loop_messages = messages[1:] %}"
    "<|system|>{{ messages[0].content }}<|end|>{% else %}{% set loop_messages = messages %}{% endif %}"
)
NO_SYSTEM = (
    "{% set loop_messages = messages %}"
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
)
DROPS_SYSTEM = "{% set loop_messages = messages | rejectattr('role', 'equalto', 'system') | list %}"
PARTS = TURNS.replace("{{ message.content }}", "{% for part in message.content %}{{ part.text }}{% endfor %}")

STRICT = {
    "tolerant": CHAT_TEMPLATE,
    "qwen": SYSTEM_FIRST + HEAD + TURNS,
    "mistral": SYSTEM_FIRST + HEAD + ALTERNATING + TURNS,
    "gemma": NO_SYSTEM + ALTERNATING + TURNS,
    "drops-system": DROPS_SYSTEM + ALTERNATING + TURNS,
    "multimodal": SYSTEM_FIRST + "{% set loop_messages = messages %}" + PARTS,
}

SYSTEM, USER, ASSISTANT = ("system", "user", "assistant")
HISTORIES: dict[str, tuple[str, ...]] = {
    "none": (),
    "ordinary": (USER, ASSISTANT),
    "system at the head": (SYSTEM, USER, ASSISTANT),
    "system in the middle": (USER, SYSTEM, ASSISTANT),
    "system at the end": (USER, ASSISTANT, SYSTEM),
    "systems everywhere": (SYSTEM, SYSTEM, USER, SYSTEM, ASSISTANT, SYSTEM),
    "developer": ("developer", USER, ASSISTANT),
    "users in a row": (USER, USER, ASSISTANT),
    "assistants in a row": (USER, ASSISTANT, ASSISTANT),
    "user last": (USER, ASSISTANT, USER),
    "assistant first": (ASSISTANT, USER, ASSISTANT),
    "assistant alone": (ASSISTANT,),
    "system alone": (SYSTEM,),
}


def tokenizer(chat_template: str) -> PreTrainedTokenizerFast:
    made = tiny_tokenizer()
    made.chat_template = chat_template
    return made


def messages(*roles: str) -> tuple[Message, ...]:
    return tuple({"role": role, "content": f"text {number}"} for number, role in enumerate(roles))


@pytest.mark.parametrize("chat_template", STRICT.values(), ids=STRICT)
@pytest.mark.parametrize("roles", HISTORIES.values(), ids=HISTORIES)
@pytest.mark.parametrize("role", AGENTS)
def test_no_history_is_refused_and_no_text_of_it_is_lost(
    role: AgentID, roles: tuple[str, ...], chat_template: str
) -> None:
    game = Game(Prompt("the prompt", Kind.BENIGN, id="p1", history=messages(*roles)))
    if role != CONVERSATION:
        game.act("the draft")
    policy = full_policy(tiny_model(), tokenizer(chat_template))
    (completion,) = TransformersAgent(policy, TEMPLATES[role], max_new_tokens=1).act([game.observe(role)])
    read = policy.tokenizer.decode(list(completion.prompt_ids or ()))
    for text in [*(f"text {number}" for number in range(len(roles))), "the prompt"]:
        assert read.count(text) == 1
    assert TEMPLATES[role](game.observe(role))[0]["content"][:60] in read


def test_what_a_tolerant_template_gets_is_the_chat_as_it_is() -> None:
    chat = list(messages(SYSTEM, ASSISTANT, USER, ASSISTANT, USER))
    assert ChatTemplate(tiny_tokenizer()).chat(chat) == chat


def test_a_strict_template_gets_the_system_text_in_the_first_user_turn() -> None:
    chat = ChatTemplate(tokenizer(STRICT["gemma"])).chat(messages(SYSTEM, USER, ASSISTANT))
    assert chat == [{"role": USER, "content": "text 0\n\ntext 1"}, {"role": ASSISTANT, "content": "text 2"}]


def test_a_chat_that_the_assistant_opens_gets_an_empty_user_turn_where_it_needs_one() -> None:
    opened = messages(SYSTEM, ASSISTANT, USER)
    chat = ChatTemplate(tokenizer(STRICT["mistral"])).chat(opened)
    assert [turn["role"] for turn in chat] == [SYSTEM, USER, ASSISTANT, USER]
    folded = ChatTemplate(tokenizer(STRICT["gemma"])).chat(opened)
    assert folded[0] == {"role": USER, "content": "text 0\n\n"}


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ((), []),
        ((USER,), [(USER, "text 0")]),
        ((USER, USER, USER), [(USER, "text 0\n\ntext 1\n\ntext 2")]),
        (("developer", USER, SYSTEM), [(SYSTEM, "text 0\n\ntext 2"), (USER, "text 1")]),
        ((USER, "tool", "tool"), [(USER, "text 0"), ("tool", "text 1\n\ntext 2")]),
    ],
)
def test_normalized_chats(roles: tuple[str, ...], expected: list[tuple[str, str]]) -> None:
    chat = messages(*roles)
    assert [(message["role"], message["content"]) for message in normalized(chat)] == expected
    assert chat == messages(*roles)


def test_what_a_template_refuses_nevertheless_is_an_error_that_names_the_chats() -> None:
    template = ChatTemplate(tokenizer(STRICT["mistral"]))
    chats = [template.chat(messages(*roles)) for roles in ([USER], ["tool"], [USER], [USER, ASSISTANT, "tool"])]
    refusal = r"refuses 2 of 4 chats: .*must alternate.* \(roles: tool\)"
    with pytest.raises(UnreadablePromptError, match=refusal) as error:
        template.render(chats, tokenize=False)
    assert (error.value.kind, error.value.rows) == ("unreadable", (1, 3))


def test_a_tokenizer_without_a_chat_template_is_refused() -> None:
    bare = tiny_tokenizer()
    bare.chat_template = None
    with pytest.raises(UsageError, match="no chat template"):
        ChatTemplate(bare)


@pytest.mark.parametrize("chat_template", STRICT.values(), ids=STRICT)
@pytest.mark.parametrize("roles", [(USER,), (SYSTEM, USER), (SYSTEM, USER, USER), (ASSISTANT, USER)])
def test_judge_models_with_strict_templates_read_every_chat(roles: tuple[str, ...], chat_template: str) -> None:
    judge = TransformersCompleter(tiny_model(), tokenizer(chat_template), name="strict", max_tokens=2)
    (answer,) = judge.chat([messages(*roles)])
    assert isinstance(answer, str)
