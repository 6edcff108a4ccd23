"""Environments by name: PettingZoo's registry has the two-agent ones, Gymnasium's the single-agent views."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import gymnasium
import pettingzoo
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.env_registry.exceptions import NameNotFound, NamespaceNotFound, VersionNotFound

from waltz_env.aec import WaltzSafetyAECEnv
from waltz_env.env import WaltzSafetyEnv
from waltz_env.errors import unknown_name
from waltz_env.transcript import show
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID

NAMESPACE = "waltz_env"
DEFAULT_ID = "WaltzSafety-v0"
CHOICE_ID = "WaltzSafetyChoice-v0"
SINGLE_AGENT_IDS = {"waltz_env/WaltzConversation-v0": CONVERSATION, "waltz_env/WaltzFeedback-v0": FEEDBACK}


def make(id: str = DEFAULT_ID, **kwargs: Any) -> ParallelEnv[AgentID, Any, Any]:
    """Makes the parallel environment of that name, as ``pettingzoo.make("parallel", "waltz_env/...")`` does.

    >>> make("WaltzSafety-v0", max_rounds=2).possible_agents
    ['conversation_0', 'feedback_0']

    Args:
        id: the name, with or without ``waltz_env/``; a name without a version means the newest one.
        **kwargs: arguments of the environment (``WaltzSafetyEnv``); they override those it was registered with.

    Raises:
        UsageError: no environment has that name, or a setting cannot work.
    """
    return pettingzoo.make("parallel", spec(id), **kwargs)


def make_aec(id: str = DEFAULT_ID, **kwargs: Any) -> AECEnv[AgentID, Any, Any]:
    """Makes the AEC twin, which selects one agent at a time. Arguments and errors are the same as for ``make``."""
    return pettingzoo.make("aec", _find("aec", id), **kwargs)


def register(
    id: str,
    kwargs: Mapping[str, Any] | None = None,
    *,
    parallel: Callable[..., Any] | str = WaltzSafetyEnv,
    aec: Callable[..., Any] | str = WaltzSafetyAECEnv,
) -> None:
    """Registers settings, or your own environments, under a name.

    Args:
        id: ``[namespace/]Name-vN``; the default namespace is ``waltz_env/``.
        kwargs: arguments that ``make`` passes on.
        parallel: the parallel environment's class or another callable that makes it, or its ``"module:name"``.
        aec: the same for the AEC environment.
    """
    pettingzoo.register("parallel", _full(id), parallel, kwargs=dict(kwargs or {}))
    pettingzoo.register("aec", _full(id), aec, kwargs=dict(kwargs or {}))


def register_single_agent() -> None:
    """Registers the single-agent views, ``SINGLE_AGENT_IDS``, for ``gymnasium.make("waltz_env/...")``."""
    for id, role in SINGLE_AGENT_IDS.items():
        gymnasium.register(id, entry_point="waltz_env.wrappers:SingleAgentEnv", kwargs={"role": role})


def spec(id: str = DEFAULT_ID) -> pettingzoo.EnvSpec:
    """Returns what is registered under that name.

    Raises:
        UsageError: the name is unknown; the nearest one is suggested.
    """
    return _find("parallel", id)


def pprint_registry() -> None:
    """Prints the names in ``waltz_env/``; ``pettingzoo.pprint_registry()`` prints the names of all packages."""
    for id in sorted(_known()):
        show(id)


def _find(env_type: Literal["aec", "parallel"], id: str) -> pettingzoo.EnvSpec:
    try:
        return pettingzoo.spec(env_type, _full(id))
    except (NameNotFound, NamespaceNotFound, VersionNotFound):
        raise unknown_name("environment", id.removeprefix(f"{NAMESPACE}/"), _known()) from None


def _full(id: str) -> str:
    return id if "/" in id else f"{NAMESPACE}/{id}"


def _known() -> list[str]:
    return [id.removeprefix(f"{NAMESPACE}/") for id in pettingzoo.parallel_registry if id.startswith(f"{NAMESPACE}/")]
