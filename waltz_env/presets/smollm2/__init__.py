"""SmolLM2-135M-Instruct: a real small model, warm-started on the spot, on the built-in prompts and judge."""

from typing import TYPE_CHECKING

from waltz_env.lazy import lazy_attributes
from waltz_env.presets.smollm2.preset import PRESET, RECIPE, build_workbench
from waltz_env.presets.smollm2.templates import NEW_TOKENS, TEMPLATES
from waltz_env.presets.smollm2.warm_start import WarmStart

__all__ = ["NEW_TOKENS", "PRESET", "RECIPE", "TEMPLATES", "WarmStart", "build_workbench"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_attributes(__name__, renamed={"build": "waltz_env.presets.smollm2.build_workbench"})
