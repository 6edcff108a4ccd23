"""The pair in production: one callable, and a chat server around it.

What needs FastAPI is imported on first use: ``Duet`` works without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from waltz_env.serving.batcher import Batcher
from waltz_env.serving.chat import chat_prompt
from waltz_env.serving.duet import AsyncAgent, Duet, Mode, OnFailure
from waltz_env.serving.limits import Limits
from waltz_env.serving.reply import Failure, Latency, Reply

if TYPE_CHECKING:
    from waltz_env.serving.app import create_app
    from waltz_env.serving.server import serve

_NEED_FASTAPI = {"create_app": "app", "serve": "server"}

__all__ = [
    "AsyncAgent",
    "Batcher",
    "Duet",
    "Failure",
    "Latency",
    "Limits",
    "Mode",
    "OnFailure",
    "Reply",
    "chat_prompt",
    "create_app",
    "serve",
]


def __getattr__(name: str) -> object:
    if name not in _NEED_FASTAPI:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEED_FASTAPI[name]}"), name)
