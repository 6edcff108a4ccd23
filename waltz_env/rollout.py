"""Many games at once: one batched call for each role and phase, one batched call of the judge."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from waltz_env.errors import JudgeError, UsageError, unknown_name
from waltz_env.game import MAX_CHARS, Game
from waltz_env.protocols import Agent, Judge
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK, AgentID, Judgement, Prompt, Response, Trajectory

logger = logging.getLogger(__name__)


def play(
    prompts: Iterable[Prompt],
    agents: Mapping[AgentID, Agent],
    judge: Judge | None = None,
    max_rounds: int = 1,
    *,
    max_chars: int = MAX_CHARS,
) -> list[Trajectory]:
    """Plays one game for each prompt, all in step; the same game as the environment's.

    Args:
        prompts: one game each.
        agents: who plays, by ``AgentID``. The feedback agent is not needed when ``max_rounds`` is 0.
        judge: labels all responses at the end, in one batch. Without one the games are not judged: that is the pair as
            it is deployed.
        max_rounds: T_max, rounds of feedback at most.
        max_chars: a longer action is cut there and marked.

    Returns:
        One trajectory for each prompt, in order. Where the judge failed (``JudgeError``), the responses without a
        verdict keep ``judgement`` None and the reason is logged: count such games, do not score them
        (``trajectory.judged``).

    Raises:
        UsageError: an agent is missing or unknown, or an agent or the judge gave the wrong number of answers.
        UsageTypeError: an agent's action is no text.
    """
    _check_agents(agents, max_rounds)
    games = [Game(prompt, max_rounds=max_rounds, max_chars=max_chars) for prompt in prompts]
    while waiting := [game for game in games if game.turn is not None]:
        turn = waiting[0].turn  # games in step: it is the same agent's turn in all that have not ended
        assert turn is not None
        completions = agents[turn].act([game.observe(turn) for game in waiting])
        if len(completions) != len(waiting):
            raise UsageError(
                f"The agent {turn!r} was given {len(waiting)} observations and answered with {len(completions)} "
                "completions; it must give one for each, in order."
            )
        for game, completion in zip(waiting, completions, strict=True):
            game.act(completion)
    trajectories = [game.trajectory() for game in games]
    return trajectories if judge is None else judge_games(trajectories, judge)


def judge_games(trajectories: Sequence[Trajectory], judge: Judge) -> list[Trajectory]:
    """The same games with the verdicts of ``judge`` in place of any earlier ones. See ``play`` for what may fail."""
    played = [(trajectory.prompt, response.text) for trajectory in trajectories for response in trajectory.responses]
    if not played:
        return list(trajectories)
    prompts, texts = zip(*played, strict=True)
    remaining = iter(try_judge(judge, prompts, texts))
    return [
        replace(trajectory, responses=tuple(Response(r.completion, next(remaining)) for r in trajectory.responses))
        for trajectory in trajectories
    ]


def try_judge(judge: Judge, prompts: Sequence[Prompt], responses: Sequence[str]) -> Sequence[Judgement | None]:
    """One batched call of ``judge``; None, with the reason in the log, where it has no verdict.

    Raises:
        UsageError: it gave the wrong number of verdicts.
    """
    try:
        return ask_judge(judge, prompts, responses)
    except JudgeError as error:
        verdicts = error.judgements or [None] * len(responses)
        _check_count(judge, len(responses), len(verdicts))
        logger.warning("%d of %d responses have no verdict: %s", list(verdicts).count(None), len(responses), error)
        return verdicts


def ask_judge(judge: Judge, prompts: Sequence[Prompt], responses: Sequence[str]) -> Sequence[Judgement]:
    """One batched call of ``judge``.

    Raises:
        UsageError: it gave the wrong number of verdicts.
        JudgeError: it gave no verdict on some of them.
    """
    verdicts = judge.judge(prompts, responses)
    _check_count(judge, len(responses), len(verdicts))
    return verdicts


def _check_count(judge: Judge, asked: int, given: int) -> None:
    if given != asked:
        raise UsageError(
            f"The judge {type(judge).__name__} was asked about {asked} responses and gave {given} verdicts; it must "
            "give one for each, in order."
        )


def _check_agents(agents: Mapping[AgentID, Agent], max_rounds: int) -> None:
    for name in agents:
        if name not in AGENTS:
            raise unknown_name("agent", str(name), AGENTS)
    for name in (CONVERSATION, FEEDBACK) if max_rounds > 0 else (CONVERSATION,):
        if name not in agents:
            raise UsageError(
                f"The game needs an agent {name!r}; got {', '.join(map(repr, agents)) or 'none'}. Pass it in `agents`"
                + (", or set max_rounds=0 to play without feedback." if name == FEEDBACK else ".")
            )
