"""The game for libraries that need arrays: encoded observations, ready-made actions, single-agent views.

docs/wrappers.md describes them.
"""

from waltz_env.wrappers.choices import CHOICES, Choice, ChoosingAgent
from waltz_env.wrappers.encoded import EncodedEnv
from waltz_env.wrappers.encoders import CachedEncoder, Encoder, HashedNgrams, SentenceEncoder
from waltz_env.wrappers.single_agent import SingleAgentEnv

__all__ = [
    "CHOICES",
    "CachedEncoder",
    "Choice",
    "ChoosingAgent",
    "EncodedEnv",
    "Encoder",
    "HashedNgrams",
    "SentenceEncoder",
    "SingleAgentEnv",
]
