"""How fast is the game on one core, with the built-in judge and short texts?

Prints environment steps per second, the same games on the bare `Game` with the same judge, and games per second of
`play`. The agents answer instantly, which leaves the game, the judge and PettingZoo's dicts to be measured. These games
repeat their texts, and the judge remembers texts; so the environment is also measured with revisions that are new, of
one sentence and of about 70 words, in turn with one that repeats. Then come the wrappers, whose encoder (hashed
n-grams) has cached all texts after the first repeat, and the discrete twin, `WaltzSafetyChoice-v0`, with games of three
turns.

    python benchmarks/env_speed.py

Times are processor seconds and each figure is the best of several repeats, to reduce the influence of other jobs on the
machine.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from pettingzoo import ParallelEnv

import waltz_env
from waltz_env.choice import ConversationAction, FeedbackAction, WaltzSafetyChoiceEnv
from waltz_env.feedback import format_feedback
from waltz_env.game import Game
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Completion, Labels, Observation
from waltz_env.wrappers import CachedEncoder, EncodedEnv, HashedNgrams, SingleAgentEnv

SENTENCES = json.loads((Path(__file__).parents[1] / "tests" / "data" / "garbage.json").read_text(encoding="utf-8"))
DRAFT = "I'm sorry, but I can't help with that."
REVISION = "Open the task manager, choose the process by its name, and end it there; save your work first."
CRITIQUE = format_feedback(
    Labels(unsafe=False, overrefuse=True),
    advice="The request is harmless: answer it in a sentence or two.",
    reasoning="It asks about a computer process and gets a refusal.",
)


def say(observation: Observation) -> str:
    """A refusal, feedback that flags it, and an answer: three turns, each of which is judged or parsed."""
    if observation["agent"] == FEEDBACK:
        return CRITIQUE
    return REVISION if observation["responses"] else DRAFT


class Scripted:
    """Plays either role."""

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        return [Completion(say(observation)) for observation in observations]


def new_texts(words: int) -> Iterator[str]:
    """Texts of sentences that have ``words`` words or a few more, each with another number at its end."""
    rng, number = random.Random(0), 0
    sentences = [sentence for split in SENTENCES.values() for sentence in split["sentences"]]
    while True:
        text, number = "", number + 1
        while len(text.split()) < words:
            text += rng.choice(sentences) + " "
        yield f"{text}{number}"


def step_env(games: int, revisions: Iterable[str] = (), env: ParallelEnv[AgentID, Any, Any] | None = None) -> int:
    """Plays through the environment, with other revisions where given; returns the number of steps."""
    others = iter(revisions)
    env = waltz_env.make("WaltzSafety-v0") if env is None else env
    env.reset(seed=0)
    steps = 0
    for _ in range(games):
        observations, _ = env.reset()
        acting: AgentID = CONVERSATION
        revision = next(others, REVISION)
        while env.agents:
            text = say(observations[acting])
            observations, *_ = env.step({acting: revision if text is REVISION else text})
            acting = FEEDBACK if acting == CONVERSATION else CONVERSATION
            steps += 1
    return steps


@cache
def kept() -> ParallelEnv[AgentID, Any, Any]:
    """An environment that this process keeps."""
    return waltz_env.make("WaltzSafety-v0")


def step_on(games: int, *, renewed: bool = False) -> int:
    """Plays in the environment that this process keeps, ``renewed`` with new revisions; returns the number of steps."""
    return step_env(games, new_texts(1) if renewed else (), env=kept())


def step_game(games: int) -> int:
    """Plays the same games on the bare `Game` with the same judge; returns the number of turns."""
    prompts, judge = waltz_env.PromptSet.load("builtin:train"), waltz_env.RuleJudge()
    turns = 0
    for i in range(games):
        game = Game(prompts[i % len(prompts)])
        while game.turn is not None:
            acting = game.turn
            game.act(say(game.observe(acting)))
            if acting == CONVERSATION:
                game.judge(*judge.judge([game.prompt], [game.trajectory().final.text]))
            turns += 1
    return turns


def step_choice(games: int) -> int:
    """Plays refusal, flag, revision in the discrete twin; returns the number of steps."""
    env = WaltzSafetyChoiceEnv()
    env.reset(seed=0)
    for _ in range(games):
        env.reset()
        env.step({CONVERSATION: ConversationAction.REFUSE})
        env.step({FEEDBACK: FeedbackAction.FLAG_OVERREFUSE})
        env.step({CONVERSATION: ConversationAction.FOLLOW})
    return 3 * games


def step_encoded(games: int, encoder: CachedEncoder) -> int:
    """Plays refusal, flag, revision with vectors and ready-made actions; returns the number of steps."""
    env = EncodedEnv(waltz_env.make("WaltzSafety-v0"), encoder)
    env.reset(seed=0)
    for _ in range(games):
        env.reset()
        env.step({CONVERSATION: 0})
        env.step({FEEDBACK: 2})
        env.step({CONVERSATION: 2})
    return 3 * games


def step_feedback(games: int, encoder: CachedEncoder) -> int:
    """Plays the feedback role: the partner drafts, a flag, the partner revises. Returns the number of games."""
    env = SingleAgentEnv(FEEDBACK, encoder=encoder)
    env.reset(seed=0)
    for _ in range(games):
        env.reset()
        env.step(2)
    return games


def play_games(games: int) -> int:
    """Plays the same games as one batch; returns their number."""
    prompts = waltz_env.PromptSet.load("builtin:train")
    batch = [prompts[i % len(prompts)] for i in range(games)]
    return len(waltz_env.play(batch, {CONVERSATION: Scripted(), FEEDBACK: Scripted()}, judge=waltz_env.RuleJudge()))


def per_second(work: Callable[[int], int], games: int, repeats: int) -> float:
    """Units of work per second on one core, the best of ``repeats``."""
    best = 0.0
    for _ in range(repeats):
        start = time.process_time()
        units = work(games)
        best = max(best, units / (time.process_time() - start))
    return best


def compare_texts(words: int, games: int, repeats: int) -> tuple[float, float]:
    """Steps per second with new revisions, and relative to one that repeats; the two take turns."""
    texts, best = new_texts(words), [0.0, 0.0]
    for _ in range(repeats):
        revisions = [next(texts) for _ in range(games)]  # made before the clock starts
        works: tuple[Callable[[int], int], ...] = (partial(step_env, revisions=revisions), step_env)
        for i, work in enumerate(works):
            best[i] = max(best[i], per_second(work, games, 1))
    return best[0], best[0] / best[1]


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=5_000, help="games per repeat")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    env, game, games, choice = (
        per_second(work, args.games, args.repeats) for work in (step_env, step_game, play_games, step_choice)
    )
    encoder = CachedEncoder(HashedNgrams())
    encoded = per_second(lambda games: step_encoded(games, encoder), args.games, args.repeats)
    single = per_second(lambda games: step_feedback(games, encoder), args.games, args.repeats)
    print(f"environment   {env:10,.0f} steps/s")
    for name, words in (("a sentence", 1), ("70 words", 70)):
        speed, ratio = compare_texts(words, args.games, args.repeats)
        print(f"  new texts   {speed:10,.0f} steps/s   ({name}; {ratio:.2f} of the speed with texts that repeat)")
    print(f"bare game     {game:10,.0f} turns/s   (environment / bare game: {env / game:.2f})")
    print(f"play          {games:10,.0f} games/s")
    print(f"encoded       {encoded:10,.0f} steps/s   ({encoded / 3:,.0f} games/s)")
    print(f"feedback role {single:10,.0f} games/s")
    print(f"discrete twin {choice:10,.0f} steps/s   ({choice / 3:,.0f} games/s)")


if __name__ == "__main__":
    main()
