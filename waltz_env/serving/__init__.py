"""The pair in production: one callable, and a chat server around it.

What needs FastAPI is imported on first use: ``Duet`` works without it.
"""

from typing import TYPE_CHECKING

from waltz_env.lazy import lazy_attributes
from waltz_env.sampling_options import SamplingOptions
from waltz_env.serving.batcher import Batcher
from waltz_env.serving.chat import chat_prompt
from waltz_env.serving.duet import AsyncAgent, AsyncSamplingAgent, Duet, Mode, OnFailure
from waltz_env.serving.http.limits import Limits
from waltz_env.serving.reply import Failure, Latency, Reply

if TYPE_CHECKING:
    from waltz_env.serving.http.app import create_app
    from waltz_env.serving.http.server import serve
else:
    __getattr__, __dir__ = lazy_attributes(__name__, on_first_use={"create_app": "http.app", "serve": "http.server"})

__all__ = [
    "AsyncAgent",
    "AsyncSamplingAgent",
    "Batcher",
    "Duet",
    "Failure",
    "Latency",
    "Limits",
    "Mode",
    "OnFailure",
    "Reply",
    "SamplingOptions",
    "chat_prompt",
    "create_app",
    "serve",
]
