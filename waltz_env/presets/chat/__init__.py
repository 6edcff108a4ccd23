"""Any chat model, trained on any prompts with any judge; also the machinery of the presets for fixed models."""

from waltz_env.presets.chat.options import ChatOptions
from waltz_env.presets.chat.preset import PRESET, RECIPE, build_agents, build_workbench, options_of, outlined_agents

__all__ = ["PRESET", "RECIPE", "ChatOptions", "build_agents", "build_workbench", "options_of", "outlined_agents"]
