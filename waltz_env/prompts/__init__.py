"""Prompt sets: what games are played on. Described in docs/prompts.md; the public sets in docs/data.md."""

from waltz_env.prompts.cursor import PromptCursor
from waltz_env.prompts.paper_mix import paper_mix
from waltz_env.prompts.prompt_set import PromptSet
from waltz_env.prompts.public import PUBLIC
from waltz_env.prompts.sources import BUILTIN

__all__ = ["BUILTIN", "PUBLIC", "PromptCursor", "PromptSet", "paper_mix"]
