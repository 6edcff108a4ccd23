"""A laboratory language model, small enough to train on a laptop in minutes, and the language it lives in.

It is for algorithms and plumbing: a faithful miniature of the game, no evidence about the safety of real models. Its
answers carry no content, to any request.
"""

from waltz_env.presets.nano.preset import PRESET, RECIPE
from waltz_env.presets.nano.splits import combinations, train, unseen_topics, validation
from waltz_env.presets.nano.templates import NEW_TOKENS, TEMPLATES
from waltz_env.presets.nano.warm_start import build

__all__ = [
    "NEW_TOKENS",
    "PRESET",
    "RECIPE",
    "TEMPLATES",
    "build",
    "combinations",
    "train",
    "unseen_topics",
    "validation",
]
