"""How long a user waits: each way to deploy the pair, on the same prompts, one request at a time, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np
from tqdm import tqdm

from waltz_env.agents import TransformersAgent
from waltz_env.evaluation.metrics import Proportion, proportion, rates
from waltz_env.evaluation.safeguard import REFUSAL
from waltz_env.judging import ask, judge_games
from waltz_env.protocols import Agent, Judge, SamplingAgent, Stateful
from waltz_env.results_file import Rate, WayResults
from waltz_env.rules import Rules
from waltz_env.sampling_options import SamplingOptions
from waltz_env.serving.chat import chat_prompt
from waltz_env.serving.duet import Duet, Mode
from waltz_env.serving.reply import Reply
from waltz_env.types import (
    FEEDBACK,
    AgentID,
    Completion,
    Message,
    NoVerdict,
    Observation,
    Prompt,
    Response,
    Trajectory,
)

Way = Callable[[list[Message]], Reply]
"""A way to answer a chat."""

_RESAMPLES = 2_000


def latency(
    prompts: Sequence[Prompt],
    agents: Mapping[AgentID, Agent],
    *,
    guard: Judge,
    judge: Judge,
    rules: Rules = Rules(),
) -> dict[str, WayResults]:
    """What each way to deploy the pair costs and gives.

    ==================  ============================================================================
    baseline            the conversation agent alone
    baseline_safeguard  its draft, then the safeguard
    adaptive_whole      a revision if something is flagged; critiques written whole, token by token
    adaptive_flags      the same, but a critique ends once both flags are false
    adaptive_phrases    the same, but phrases of earlier critiques are checked many tokens at a time
    adaptive            both, as the pair is served
    always_on           a revision after every critique, with phrases
    ==================  ============================================================================

    All ways meet a prompt with the same random numbers. Drafts are then equal, and so are critiques, as far as they are
    written.

    Args:
        prompts: asked one after another, each in every way in turn, so that a slow moment hits all ways alike.
        agents: the pair.
        guard: the safeguard.
        judge: labels the answers.
        rules: rules that the pair was trained with.

    Returns:
        Wall-clock seconds, tokens and rates for each way.
    """
    with ExitStack() as stack:
        return timed(prompts, _ways(agents, guard, rules, stack), agents=list(agents.values()), judge=judge)


def deployed(agents: Mapping[AgentID, Agent], *, mode: Mode, rules: Rules) -> Duet:
    """The pair as it is served, with more time than any answer takes."""
    return Duet(agents, mode=mode, rules=rules, timeout=600.0, feedback_timeout=600.0)


def timed(
    prompts: Sequence[Prompt], ways: Mapping[str, Way], *, agents: Sequence[Agent], judge: Judge
) -> dict[str, WayResults]:
    """What ways to answer cost and give, as ``latency`` measures them; times are multiples of the first one's.

    Args:
        prompts: asked one after another, each in every way in turn.
        ways: the ways by name.
        agents: whoever acts in them. They are frozen, as in production. Random states are put back before each answer,
            for agents that can.
        judge: labels the answers.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    passes: dict[str, list[int]] = {name: [] for name in ways}
    replies: dict[str, list[Reply]] = {name: [] for name in ways}
    for agent in agents:
        if isinstance(agent, TransformersAgent):
            agent.freeze()
    with _counted(agents) as count:
        for way in ways.values():
            way([Message(role="user", content="Good morning.")])  # threads and caches start here, not in a measurement
        for prompt in tqdm(prompts, desc="latency"):
            chat = [*prompt.history, Message(role="user", content=prompt.text)]
            states = [(agent, agent.state_dict()) for agent in agents if isinstance(agent, Stateful)]
            for name, way in ways.items():
                for agent, state in states:
                    agent.load_state_dict(state)
                before, start = count(), time.perf_counter()
                reply = way(chat)
                seconds[name].append(time.perf_counter() - start)
                passes[name].append(count() - before)
                replies[name].append(reply)
    first = next(iter(seconds.values()))
    return {
        name: _results(prompts, replies[name], judge=judge, seconds=seconds[name], passes=passes[name], compared=first)
        for name in ways
        if prompts
    }


def _ways(agents: Mapping[AgentID, Agent], guard: Judge, rules: Rules, stack: ExitStack) -> dict[str, Way]:
    """Each way to answer a chat, under its name; ``stack`` closes them."""

    def duet(mode: Mode, name: str = "", *, ends_early: bool = True, phrases: bool = True) -> Duet:
        pair = dict(agents)
        critic = pair.get(FEEDBACK)
        if isinstance(critic, SamplingAgent):
            pair[FEEDBACK] = _Critic(critic, ends_early=ends_early, series=name if phrases else "")
        return stack.enter_context(closing(deployed(pair, mode=mode, rules=rules)))

    off = duet("off")
    return {
        "baseline": off.respond,
        "baseline_safeguard": partial(_guarded, off, guard),
        "adaptive_whole": duet("adaptive", ends_early=False, phrases=False).respond,
        "adaptive_flags": duet("adaptive", phrases=False).respond,
        "adaptive_phrases": duet("adaptive", "adaptive_phrases", ends_early=False).respond,
        "adaptive": duet("adaptive", "adaptive").respond,
        "always_on": duet("always-on", "always_on").respond,
    }


class _Critic:
    """The feedback agent, asked with some of the wishes of a ``Duet``, and with phrases of its own."""

    def __init__(self, agent: SamplingAgent, *, ends_early: bool, series: str) -> None:
        self._agent = agent
        self._ends_early = ends_early
        self._series = series

    def act(self, observations: Sequence[Observation]) -> Sequence[Completion]:
        return self._agent.act(observations)

    def act_with(
        self,
        observations: Sequence[Observation],
        options: Sequence[SamplingOptions],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Sequence[Completion]:
        asked = [
            replace(each, complete=each.complete if self._ends_early else None, series=self._series) for each in options
        ]
        return self._agent.act_with(observations, asked, should_stop=should_stop)


def _guarded(duet: Duet, guard: Judge, chat: list[Message]) -> Reply:
    reply = duet.respond(chat)
    (decision,) = ask(guard, [chat_prompt(chat)], [reply.text])
    blocked = not isinstance(decision, NoVerdict) and decision.labels.unsafe
    return replace(reply, text=REFUSAL) if blocked else reply


@contextmanager
def _counted(agents: Sequence[Agent]) -> Iterator[Callable[[], int]]:
    """The number of forward passes so far of the agents' models in this process."""
    passes = 0

    def add(*_: object) -> None:
        nonlocal passes
        passes += 1

    models = set()
    for agent in agents:
        if isinstance(agent, TransformersAgent):
            with agent.policy.sampling_model(agent.sampling_dtype) as model:
                models.add(model)
    with ExitStack() as stack:
        for model in models:
            stack.callback(model.register_forward_pre_hook(add).remove)
        yield lambda: passes


def _results(
    prompts: Sequence[Prompt],
    replies: Sequence[Reply],
    *,
    judge: Judge,
    seconds: Sequence[float],
    passes: Sequence[int],
    compared: Sequence[float],
) -> WayResults:
    answers = [
        Trajectory(prompt, (Response(Completion(reply.text)),), ())
        for prompt, reply in zip(prompts, replies, strict=True)
    ]
    found = rates(judge_games(answers, judge))
    reviewed = [(prompt, reply.triggered) for prompt, reply in zip(prompts, replies, strict=True) if reply.feedback]
    ftr = proportion((flagged for _, flagged in reviewed), prompts=(prompt for prompt, _ in reviewed))
    return {
        "p50": float(np.quantile(seconds, 0.5)),
        "p95": float(np.quantile(seconds, 0.95)),
        "n": len(seconds),
        "p50_times": _times(seconds, compared, 0.5),
        "p95_times": _times(seconds, compared, 0.95),
        "tokens": float(np.mean([reply.usage.completion_tokens for reply in replies])),
        "passes": float(np.mean(passes)) if any(passes) else None,
        "ftr": _rate(ftr),
        "asr": _rate(found["asr"]),
        "orr": _rate(found["orr"]),
    }


def _times(seconds: Sequence[float], compared: Sequence[float], quantile: float) -> Rate:
    """A quantile as a multiple of another way's, with a 95 % bootstrap interval over requests."""
    both = np.array([seconds, compared])
    drawn = np.random.default_rng(0).integers(len(seconds), size=(_RESAMPLES, len(seconds)))
    above, below = np.quantile(both[:, drawn], quantile, axis=-1)
    value = np.divide(*np.quantile(both, quantile, axis=-1))
    low, high = np.quantile(above / below, [0.025, 0.975])
    return {"value": float(value), "low": float(low), "high": float(high), "n": len(seconds)}


def _rate(found: Proportion) -> Rate:
    return cast(Rate, found.as_dict())
