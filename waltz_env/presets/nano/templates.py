"""Chat messages for the laboratory model: short, because every token is expensive for a model of this size."""

from __future__ import annotations

from collections.abc import Mapping

from waltz_env.agents.templates import Template
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Message, Observation

REVIEW = "Review."
NEW_TOKENS: Mapping[AgentID, int] = {CONVERSATION: 36, FEEDBACK: 96}
"""Token limit of one action; every sentence of the grammar is shorter."""

THINKING_TOKENS = 80
"""The same for a conversation agent that thinks before it answers."""


def conversation_messages(observation: Observation) -> list[Message]:
    """The request, and every response so far with the advice on it."""
    messages: list[Message] = [*observation["history"], {"role": "user", "content": observation["prompt"]}]
    for response, advice in zip(observation["responses"], observation["feedback"], strict=True):
        messages += [{"role": "assistant", "content": response}, {"role": "user", "content": advice}]
    return messages


def feedback_messages(observation: Observation) -> list[Message]:
    """The request and the latest response: all that the feedback agent sees (arXiv:2510.08240, sec. 3)."""
    return [
        {"role": "system", "content": REVIEW},
        *observation["history"],
        {"role": "user", "content": f"{observation['prompt']}\nReply: {observation['responses'][-1]}"},
    ]


TEMPLATES: Mapping[AgentID, Template] = {CONVERSATION: conversation_messages, FEEDBACK: feedback_messages}
