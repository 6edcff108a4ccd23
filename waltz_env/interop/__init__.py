"""The game in the terms of other trainers; a module named after a library imports it."""

from waltz_env.interop.one_game import Ask, play_one, samples_of
from waltz_env.interop.vllm_output import completion_of

__all__ = ["Ask", "completion_of", "play_one", "samples_of"]
