"""Things that act in the game.

What needs torch or openai is imported on first use: scripted agents and templates work without it.
"""

from typing import TYPE_CHECKING

from waltz_env.agents.templates import TEMPLATES, Template, conversation_messages, feedback_messages
from waltz_env.lazy import lazy_attributes
from waltz_env.scripted import AlwaysFlag, FollowAdvice, NeverFlag, OracleFeedback

if TYPE_CHECKING:
    from waltz_env.agents.layouts import full_policy, lora_policies
    from waltz_env.agents.models import fast_dtype, load_model, load_outline
    from waltz_env.agents.openai_agent import OpenAIAgent
    from waltz_env.agents.policy import LanguageModelPolicy
    from waltz_env.agents.smollm2 import load_smollm2
    from waltz_env.agents.tinker_agent import TinkerAgent
    from waltz_env.agents.tinker_policy import TinkerPolicy
    from waltz_env.agents.transformers_agent import TransformersAgent
    from waltz_env.agents.vllm_agent import VLLMAgent
    from waltz_env.agents.vllm_engine import VLLMEngine
    from waltz_env.agents.vllm_servers import VLLMServers
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        on_first_use={
            "LanguageModelPolicy": "policy",
            "OpenAIAgent": "openai_agent",
            "TinkerAgent": "tinker_agent",
            "TinkerPolicy": "tinker_policy",
            "TransformersAgent": "transformers_agent",
            "VLLMAgent": "vllm_agent",
            "VLLMEngine": "vllm_engine",
            "VLLMServers": "vllm_servers",
            "fast_dtype": "models",
            "full_policy": "layouts",
            "load_model": "models",
            "load_outline": "models",
            "load_smollm2": "smollm2",
            "lora_policies": "layouts",
        },
        renamed={"Policy": "waltz_env.agents.LanguageModelPolicy"},
    )

__all__ = [
    "TEMPLATES",
    "AlwaysFlag",
    "FollowAdvice",
    "LanguageModelPolicy",
    "NeverFlag",
    "OpenAIAgent",
    "OracleFeedback",
    "Template",
    "TinkerAgent",
    "TinkerPolicy",
    "TransformersAgent",
    "VLLMAgent",
    "VLLMEngine",
    "VLLMServers",
    "conversation_messages",
    "fast_dtype",
    "feedback_messages",
    "full_policy",
    "load_model",
    "load_outline",
    "load_smollm2",
    "lora_policies",
]
