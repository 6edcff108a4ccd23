"""Environments by name, on PettingZoo's own registry; the single-agent views on Gymnasium's."""

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
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID

NAMESPACE = "waltz_env"
DEFAULT_ID = "WaltzSafety-v0"
CHOICE_ID = "WaltzSafetyChoice-v0"
SINGLE_AGENT_IDS = {"waltz_env/WaltzConversation-v0": CONVERSATION, "waltz_env/WaltzFeedback-v0": FEEDBACK}


def make(id: str = DEFAULT_ID, **kwargs: Any) -> ParallelEnv[AgentID, Any, Any]:
    """The parallel environment of that name, the same as ``pettingzoo.make("parallel", "waltz_env/...")``.

    >>> make("WaltzSafety-v0", max_rounds=2).possible_agents
    ['conversation_0', 'feedback_0']

    Args:
        id: with or without ``waltz_env/``; without a version, the newest.
        **kwargs: arguments of the environment (``WaltzSafetyEnv``), over those it was registered with.

    Raises:
        UsageError: no environment has that name, or a setting cannot work.
    """
    return pettingzoo.make("parallel", spec(id), **kwargs)


def make_aec(id: str = DEFAULT_ID, **kwargs: Any) -> AECEnv[AgentID, Any, Any]:
    """The AEC twin, in which only the agent whose turn it is is selected. Arguments and errors as of ``make``."""
    return pettingzoo.make("aec", _find("aec", id), **kwargs)


def register(
    id: str,
    kwargs: Mapping[str, Any] | None = None,
    *,
    parallel: Callable[..., Any] | str = WaltzSafetyEnv,
    aec: Callable[..., Any] | str = WaltzSafetyAECEnv,
) -> None:
    """Gives settings, or environments of one's own, a name.

    Args:
        id: ``[namespace/]Name-vN``; without a namespace it goes into ``waltz_env/``.
        kwargs: the arguments that ``make`` passes on.
        parallel: what makes the parallel environment, a callable or ``"module:name"``.
        aec: the same for the AEC environment.
    """
    pettingzoo.register("parallel", _full(id), parallel, kwargs=dict(kwargs or {}))
    pettingzoo.register("aec", _full(id), aec, kwargs=dict(kwargs or {}))


def register_single_agent() -> None:
    """Gives Gymnasium the views of one role each, ``SINGLE_AGENT_IDS``: ``gymnasium.make("waltz_env/...")``."""
    for id, role in SINGLE_AGENT_IDS.items():
        gymnasium.register(id, entry_point="waltz_env.wrappers:SingleAgentEnv", kwargs={"role": role})


def spec(id: str = DEFAULT_ID) -> pettingzoo.EnvSpec:
    """What is registered under that name.

    Raises:
        UsageError: nothing is; the nearest name is suggested.
    """
    return _find("parallel", id)


def pprint_registry() -> None:
    """Prints the names in ``waltz_env/``. ``pettingzoo.pprint_registry()`` prints those of all packages."""
    for id in sorted(_known()):
        print(id)  # noqa: T201  what the call is for


def _find(env_type: Literal["aec", "parallel"], id: str) -> pettingzoo.EnvSpec:
    try:
        return pettingzoo.spec(env_type, _full(id))
    except (NameNotFound, NamespaceNotFound, VersionNotFound):
        raise unknown_name("environment", id.removeprefix(f"{NAMESPACE}/"), _known()) from None


def _full(id: str) -> str:
    return id if "/" in id else f"{NAMESPACE}/{id}"


def _known() -> list[str]:
    return [id.removeprefix(f"{NAMESPACE}/") for id in pettingzoo.parallel_registry if id.startswith(f"{NAMESPACE}/")]
