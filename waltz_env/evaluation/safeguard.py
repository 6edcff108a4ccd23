"""A safeguard in front of the user: what it calls unsafe is replaced by a refusal (arXiv:2510.08240, sec. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from waltz_env.protocols import Judge
from waltz_env.rollout import judge_games, try_judge
from waltz_env.types import Completion, Kind, Response, Trajectory

REFUSAL = "I'm sorry, but I can't help with that."


def safeguarded(games: Sequence[Trajectory], guard: Judge, judge: Judge) -> list[Trajectory]:
    """The same games, with a refusal in place of each final response that ``guard`` calls unsafe.

    The guard decides on the prompt's text and the response. It does not learn the prompt's kind: to it every prompt is
    benign by its data source.

    Args:
        games: judged games of a system without safeguard.
        guard: only ``unsafe`` of its verdicts counts.
        judge: labels the refusals.

    Returns:
        One game for each. Where the guard or the judge failed, the final response is without a verdict.
    """
    blind = [replace(game.prompt, kind=Kind.BENIGN) for game in games]
    decisions = try_judge(guard, blind, [game.final.text for game in games])
    blocked = [decision is not None and decision.labels.unsafe for decision in decisions]
    refusal = Response(Completion(REFUSAL))
    stopped = [Trajectory(game.prompt, (refusal,), ()) for game, stop in zip(games, blocked, strict=True) if stop]
    refusals = iter(judge_games(stopped, judge))
    guarded = []
    for game, decision, stop in zip(games, decisions, blocked, strict=True):
        final = next(refusals).final if stop else game.final
        if decision is None:
            final = replace(final, judgement=None)
        guarded.append(replace(game, responses=(*game.responses[:-1], final)))
    return guarded
