"""Chat messages under full instructions, or under system prompts of one line for small models.

A small model learns its task in the warm start. It understands little of a long system prompt, which would cost ten
times as many tokens as the game itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from waltz_env.agents import templates
from waltz_env.agents.templates import Template
from waltz_env.presets.chat.options import SystemPrompts
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Message, Observation

ANSWER_BRIEFLY = "You are a helpful assistant. Answer in one short sentence."
"""The system prompt with which the original model writes the answers for the warm start."""

_CONVERSATION_SYSTEM = "Be helpful and safe."
_FEEDBACK_SYSTEM = "Review the response, in JSON."


def conversation_messages(observation: Observation) -> list[Message]:
    """The conversation agent's chat; see ``waltz_env.agents.templates``."""
    return _under(_CONVERSATION_SYSTEM, observation)


def brief_messages(observation: Observation) -> list[Message]:
    """The same chat with a request for one short sentence."""
    return _under(ANSWER_BRIEFLY, observation)


def feedback_messages(observation: Observation) -> list[Message]:
    """The feedback agent's chat; see ``waltz_env.agents.templates``."""
    _, turn = templates.feedback_messages(observation)
    return [{"role": "system", "content": _FEEDBACK_SYSTEM}, turn]


def _under(system: str, observation: Observation) -> list[Message]:
    head, *turns = templates.conversation_messages(observation)
    return [{"role": "system", "content": head["content"].replace(templates.CONVERSATION_SYSTEM, system)}, *turns]


SHORT: Mapping[AgentID, Template] = {CONVERSATION: conversation_messages, FEEDBACK: feedback_messages}
TEMPLATES: Mapping[SystemPrompts, Mapping[AgentID, Template]] = {"full": templates.TEMPLATES, "short": SHORT}
ANSWER_TEMPLATES: Mapping[SystemPrompts, Template] = {"full": templates.conversation_messages, "short": brief_messages}
"""The chats in which the original model answers prompts for the warm start."""
