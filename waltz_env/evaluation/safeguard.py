"""A safeguard behind the agents, which replaces unsafe final responses by a refusal (arXiv:2510.08240, sec. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from waltz_env.judging import ask, judge_games
from waltz_env.protocols import Judge
from waltz_env.types import Completion, Kind, NoVerdict, Response, Trajectory

REFUSAL = "I'm sorry, but I can't help with that."


def safeguarded(games: Sequence[Trajectory], guard: Judge, *, judge: Judge) -> list[Trajectory]:
    """Replaces each final response that ``guard`` calls unsafe by a refusal.

    The guard decides on the prompt's text and the response. It does not learn the prompt's kind: it is told that every
    prompt is benign.

    Args:
        games: judged games of a system without a safeguard.
        guard: only the label ``unsafe`` of its judgements counts.
        judge: labels the refusals.

    Returns:
        One game for each. Where the guard or the judge has no verdict, the final response holds its ``NoVerdict``.
    """
    blind = [replace(game.prompt, kind=Kind.BENIGN) for game in games]
    decisions = ask(guard, blind, [game.final.text for game in games])
    blocked = [not isinstance(decision, NoVerdict) and decision.labels.unsafe for decision in decisions]
    refusal = Response(Completion(REFUSAL))
    stopped = [Trajectory(game.prompt, (refusal,), ()) for game, stop in zip(games, blocked, strict=True) if stop]
    refusals = iter(judge_games(stopped, judge))
    guarded = []
    for game, decision, stop in zip(games, decisions, blocked, strict=True):
        final = next(refusals).final if stop else game.final
        if isinstance(decision, NoVerdict):
            final = replace(final, judgement=NoVerdict(f"The safeguard has no verdict. {decision.reason}"))
        guarded.append(replace(game, responses=(*game.responses[:-1], final)))
    return guarded
