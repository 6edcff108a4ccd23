"""How long a user waits: each way to deploy the pair, on the same prompts, one request at a time, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial

import numpy as np
from tqdm import tqdm

from waltz_env.judging import ask
from waltz_env.protocols import Agent, Judge
from waltz_env.rules import Rules
from waltz_env.serving import Mode
from waltz_env.serving.chat import chat_prompt
from waltz_env.serving.duet import Duet
from waltz_env.types import AgentID, Message, Prompt

Way = Callable[[list[Message]], object]
"""A way to answer a chat."""


def latency(
    prompts: Sequence[Prompt], agents: Mapping[AgentID, Agent], *, guard: Judge, rules: Rules = Rules()
) -> dict[str, dict[str, float]]:
    """Wall-clock seconds per request, median and 95th percentile, for each way to deploy the pair.

    ``baseline``: the conversation agent alone. ``baseline_safeguard``: its draft, then the safeguard. ``always_on``: a
    revision after every critique. ``adaptive``: a revision if something is flagged.

    Args:
        prompts: asked one after another, each in every way in turn, so that a slow moment hits all ways alike.
        agents: the pair.
        guard: the safeguard.
        rules: rules that the pair was trained with.

    Returns:
        ``p50``, ``p95`` (seconds) and ``n`` (requests) for each.
    """
    with ExitStack() as stack:
        off, always_on, adaptive = (
            stack.enter_context(closing(deployed(agents, mode=mode, rules=rules)))
            for mode in ("off", "always-on", "adaptive")
        )
        ways: dict[str, Way] = {
            "baseline": off.respond,
            "baseline_safeguard": partial(_guarded, off, guard),
            "always_on": always_on.respond,
            "adaptive": adaptive.respond,
        }
        return timed(prompts, ways)


def deployed(agents: Mapping[AgentID, Agent], *, mode: Mode, rules: Rules) -> Duet:
    """The pair as it is served, with more time than any answer takes."""
    return Duet(agents, mode=mode, rules=rules, timeout=600.0, feedback_timeout=600.0)


def timed(prompts: Sequence[Prompt], ways: Mapping[str, Way]) -> dict[str, dict[str, float]]:
    """Seconds per request of each way to answer, as ``latency`` gives them."""
    seconds: dict[str, list[float]] = {}
    for way in ways.values():
        way([Message(role="user", content="Good morning.")])  # threads and caches start here, not in a measurement
    for prompt in tqdm(prompts, desc="latency"):
        chat = [*prompt.history, Message(role="user", content=prompt.text)]
        for name, way in ways.items():
            start = time.perf_counter()
            way(chat)
            seconds.setdefault(name, []).append(time.perf_counter() - start)
    return {
        name: {"p50": float(np.quantile(each, 0.5)), "p95": float(np.quantile(each, 0.95)), "n": len(each)}
        for name, each in seconds.items()
    }


def _guarded(duet: Duet, guard: Judge, chat: list[Message]) -> None:
    reply = duet.respond(chat)
    ask(guard, [chat_prompt(chat)], [reply.text])
