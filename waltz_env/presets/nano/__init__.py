"""A laboratory language model, small enough to train on a laptop in minutes, and the language it lives in.

It is for algorithms and plumbing: a faithful miniature of the game, and not evidence about the safety of real models.
Its answers have no content, whatever the request.
"""

from typing import TYPE_CHECKING

from waltz_env.lazy import lazy_attributes
from waltz_env.presets.nano.preset import PRESET, RECIPE
from waltz_env.presets.nano.splits import combinations, train, unseen_topics, validation
from waltz_env.presets.nano.templates import NEW_TOKENS, TEMPLATES
from waltz_env.presets.nano.warm_start import NanoConfig, build_model

__all__ = [
    "NEW_TOKENS",
    "PRESET",
    "RECIPE",
    "TEMPLATES",
    "NanoConfig",
    "build_model",
    "combinations",
    "train",
    "unseen_topics",
    "validation",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_attributes(__name__, renamed={"build": "waltz_env.presets.nano.build_model"})
