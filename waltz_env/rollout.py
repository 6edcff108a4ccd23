"""Many games at once: one batched call per role and phase, one batched call of the judge."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from math import prod

from waltz_env.branches import ALONE, Branches, check_branches
from waltz_env.errors import UnreadablePromptError, UsageError
from waltz_env.game import Game
from waltz_env.judging import ask, judge_games, with_judgements
from waltz_env.lock_step import in_step
from waltz_env.plain import one_each
from waltz_env.protocols import Agent, Judge, Reader
from waltz_env.rules import Rules, check_agents
from waltz_env.types import CONVERSATION, AgentID, Judgement, NoVerdict, Prompt, Response, Trajectory

logger = logging.getLogger(__name__)
_LISTED = 5  # prompts that an error names


def play(
    prompts: Iterable[Prompt],
    agents: Mapping[AgentID, Agent],
    *,
    judge: Judge | None = None,
    rules: Rules = Rules(),
    branches: Branches = ALONE,
    overlap_judge: bool = False,
    exclude_unreadable: bool = False,
) -> list[Trajectory]:
    """Plays one game per prompt, all of them together; the same games as the environment's.

    With ``branches`` there is a tree of games for each prompt, and what the games of a tree share is generated and
    judged once. All critiques of all drafts are one batch, and so are all revisions.

    Args:
        prompts: one game each, or one tree of games.
        agents: the agent of each role. Only the roles that may get a turn (``rules.roles``) are needed.
        judge: labels all responses at the end, in one batch. Without a judge the games are not judged, as in
            production.
        rules: decide when a game ends and how long an action may be.
        branches: n drafts per prompt, k critiques per draft and m revisions per critique, see ``waltz_env.branches``.
            Only the first round branches; later rounds belong to one game each.
        overlap_judge: ask the judge about responses as soon as a phase has produced them, in a thread, while the agents
            go on: one call per phase. For judges that wait for a server or have a device of their own; never for a
            judge that shares a model with an agent.
        exclude_unreadable: leave out the games on prompts that an agent's model cannot read, because they are longer
            than its context or its chat template refuses them. They are missing in what is returned, and their number
            is logged. By default such a prompt is an error.

    Returns:
        n k m trajectories per prompt, in order of prompts, drafts, critiques and revisions. A response that the judge
        has no verdict on holds a ``NoVerdict`` with the reason, which is also logged: count such games, do not score
        them (``trajectory.judged``).

    Raises:
        UnreadablePromptError: an agent's model cannot read a prompt, and ``exclude_unreadable`` is off.
        UsageError: an agent is missing or unknown, an agent or the judge gave the wrong number of answers, or games of
            these rules cannot branch so.
        UsageTypeError: an agent's action is not a text.
    """
    check_agents(agents, rules)
    check_branches(branches, rules)
    games = [Game(prompt, rules) for prompt in prompts for _ in range(branches[0])]
    counts = branches[1:]
    if prod(counts) > 1:
        for number, game in enumerate(games):
            game.branch = (number,)
    phases = _phases(games, agents, exclude_unreadable, counts)
    if judge is not None and overlap_judge:
        return _judged_meanwhile(phases, games, judge)
    return _played(phases, games, judge)


def check_readable(prompts: Iterable[Prompt], agents: Mapping[AgentID, Agent]) -> None:
    """Checks that the conversation agent's model can read every prompt, before any game is played.

    Later turns are longer by what the agents say and are checked as they come. Agents that cannot tell without acting
    are not asked.

    Raises:
        UnreadablePromptError: it cannot read some prompts.
    """
    agent, games = agents.get(CONVERSATION), [Game(prompt) for prompt in prompts]
    if games and isinstance(agent, Reader):
        try:
            agent.check_readable([game.observe(CONVERSATION) for game in games])
        except UnreadablePromptError as error:
            raise _with_prompts(error, CONVERSATION, [games[row] for row in error.rows]) from error


def finish(
    games: Sequence[Game],
    agents: Mapping[AgentID, Agent],
    *,
    judge: Judge | None = None,
    exclude_unreadable: bool = False,
) -> list[Trajectory]:
    """Finishes games already in progress, e.g. games whose first moves came from other software.

    Args:
        games: games at any turn, or ended ones; they are played on in place, each by its own rules.
        agents: the agent of each role. A role whose turn never comes is not needed.
        judge: labels all responses, as in ``play``.
        exclude_unreadable: leave out games that an agent's model cannot read, as in ``play``.

    Returns:
        One trajectory per game, in order, including the moves that it had before.

    Raises:
        UnreadablePromptError: an agent's model cannot read a game, and ``exclude_unreadable`` is off.
        UsageError: the agent whose turn it is is missing, or an agent or the judge gave the wrong number of answers.
        UsageTypeError: an agent's action is not a text.
    """
    games = list(games)
    return _played(_phases(games, agents, exclude_unreadable, counts=None), games, judge)


Phases = Iterator[tuple[AgentID, list[Game]]]


def _phases(
    games: list[Game], agents: Mapping[AgentID, Agent], exclude_unreadable: bool, counts: tuple[int, int] | None
) -> Phases:
    """Plays the games to their ends; after each phase, who moved and in which games.

    Games that branch are replaced in ``games``, and those that are left out because a model cannot read them are
    removed.
    """
    while True:
        if counts is not None:
            games[:] = chain.from_iterable(_grown(game, counts) for game in games)
        turn = next((game.turn for game in games if game.turn is not None), None)
        if turn is None:
            return
        if turn not in agents:
            raise UsageError(f"It is the turn of {turn!r}, and `agents` has {', '.join(map(repr, agents)) or 'none'}.")
        waiting = [game for game in games if game.turn == turn]
        try:
            completions = agents[turn].act([game.observe(turn) for game in waiting])
        except UnreadablePromptError as error:
            unreadable = [waiting[row] for row in error.rows]
            if not exclude_unreadable:
                raise _with_prompts(error, turn, unreadable) from error
            logger.warning("%d of %d games are left out. %s: %s", len(unreadable), len(games), turn, error)
            games[:] = [game for game in games if game not in unreadable]
            completions = [completion for completion in error.partial if completion is not None]
            waiting = [game for game in waiting if game not in unreadable]
            if not completions:  # the agent has not acted on the others: it is asked again, about them alone
                continue
        for game, completion in zip(waiting, one_each(turn, completions, len(waiting)), strict=True):
            game.act(completion)
        yield turn, waiting


def _grown(game: Game, counts: tuple[int, int]) -> list[Game]:
    """The games that ``game`` branches into here: itself, unless it has come to its critiques or its revisions."""
    depth = len(game.branch)  # 1: it branches into critiques next; 2: into revisions; 3: it has; 0: it never does
    if depth in (0, 3):
        return [game]
    played = game.trajectory()
    due = played.responses if depth == 1 else played.critiques or game.turn is None
    if not due:
        return [game]
    # A game that has ended branches all the same, so that it stands in its tree as often as if it had gone on.
    return [leaf for each in game.split(counts[depth - 1]) for leaf in _grown(each, counts)]


def _with_prompts(error: UnreadablePromptError, agent: AgentID, games: Sequence[Game]) -> UnreadablePromptError:
    """The same error, which also says whose model cannot read which prompts."""
    names = [game.prompt.id or repr(game.prompt.text[:40]) for game in games]
    listed = ", ".join(names[:_LISTED]) + f" and {len(names) - _LISTED} more" * (len(names) > _LISTED)
    return UnreadablePromptError(
        f"{agent}: {error} Prompts: {listed}.", kind=error.kind, rows=error.rows, partial=error.partial
    )


def _played(phases: Phases, games: list[Game], judge: Judge | None) -> list[Trajectory]:
    """The games, played by ``phases`` to their ends and then judged."""
    with in_step():
        for _ in phases:
            pass
    trajectories = [game.trajectory() for game in games]
    return trajectories if judge is None else judge_games(trajectories, judge)


def _judged_meanwhile(phases: Phases, games: list[Game], judge: Judge) -> list[Trajectory]:
    """The same, while the judge, in a thread of its own, looks at the responses that there are."""
    asked: list[tuple[list[Response], Future[Sequence[Judgement | NoVerdict]]]] = []
    with ThreadPoolExecutor(1, thread_name_prefix="waltz-judge") as thread, in_step():
        for turn, moved in phases:
            if turn == CONVERSATION:
                finals = [game.trajectory().final for game in moved]
                texts = [response.text for response in finals]
                asked.append((finals, thread.submit(ask, judge, [game.prompt for game in moved], texts)))
    # By the object, not by the game: games that have branched hold the same responses.
    outcomes = {
        id(response): outcome
        for finals, answer in asked
        for response, outcome in zip(finals, answer.result(), strict=True)
    }
    trajectories = [game.trajectory() for game in games]
    return [with_judgements(each, [outcomes[id(response)] for response in each.responses]) for each in trajectories]
