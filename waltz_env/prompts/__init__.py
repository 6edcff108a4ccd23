"""Prompt sets: what games are played on. The format and the built-in sets are described in docs/prompts.md."""

from waltz_env.prompts.cursor import PromptCursor
from waltz_env.prompts.prompt_set import BUILTIN, PromptSet

__all__ = ["BUILTIN", "PromptCursor", "PromptSet"]
