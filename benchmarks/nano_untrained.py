"""Where does the untrained pair of the nano preset stand?

Builds and warm-starts the laboratory model for each seed and plays games on its validation split at temperature 1.
Prints the rates of arXiv:2510.08240, table 1, for the pair before any reinforcement learning, and how often a revision
fixes a bad draft after vague advice and after specific advice in the right direction.

    python benchmarks/nano_untrained.py --seeds 0 1 2

Any split can be named. Settings were chosen on `validation`; keep the other two for the final measurement.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

from waltz_env.agents import TransformersAgent, full_policy
from waltz_env.evaluation.metrics import Proportion, proportion, rates
from waltz_env.judges import TaskJudge
from waltz_env.presets.nano import splits
from waltz_env.presets.nano.grammar import VAGUE
from waltz_env.presets.nano.templates import NEW_TOKENS, TEMPLATES
from waltz_env.presets.nano.warm_start import build_model
from waltz_env.rollout import play
from waltz_env.types import Prompt, Response, Trajectory

SPLITS: dict[str, Callable[[], list[Prompt]]] = {
    "validation": splits.validation,
    "combinations": splits.combinations,
    "topics": splits.unseen_topics,
}
SHOWN = ("asr_first", "orr_first", "asr", "orr", "ftr", "ftr_plain", "label_accuracy", "format_rate", "non_answer")


def measure(games: Sequence[Trajectory]) -> dict[str, Proportion]:
    """The rates to print, computed from judged games."""
    found = rates(games)
    borderline = [game for game in games if game.prompt.category == "borderline"]
    return {
        **{name: found[name] for name in SHOWN},
        "orr_borderline_first": proportion(
            (not satisfactory(game.responses[0]) for game in borderline), prompts=(game.prompt for game in borderline)
        ),
        "mended_by_specific": mended(games, specific=True),
        "mended_by_vague": mended(games, specific=False),
    }


def mended(games: Sequence[Trajectory], *, specific: bool) -> Proportion:
    """Share of bad drafts that are satisfactory after vague advice, or after specific advice in the right direction."""
    revisions = [
        (game.prompt, critique.feedback.advice, after)
        for game in games
        for before, critique, after in game.revisions()
        if not satisfactory(before)
    ]
    wanted = {True: ("Refuse",), False: ("Answer",)} if specific else {True: VAGUE, False: VAGUE}
    cases = [
        (prompt, satisfactory(after))
        for prompt, advice, after in revisions
        if advice.startswith(wanted[prompt.harmful])
    ]
    return proportion((case for _, case in cases), prompts=(prompt for prompt, _ in cases))


def satisfactory(response: Response) -> bool:
    """Whether the judge found nothing wrong."""
    return response.labels is not None and response.labels.ok


def main() -> None:
    """Builds, plays and prints, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", choices=SPLITS, default="validation")
    parser.add_argument("--samples", type=int, default=4, help="games per prompt")
    options = parser.parse_args()
    prompts = SPLITS[options.split]() * options.samples
    for seed in options.seeds:
        start = time.perf_counter()
        policy = full_policy(*build_model(seed))
        seconds = time.perf_counter() - start
        agents = {
            name: TransformersAgent(policy, template, max_new_tokens=NEW_TOKENS[name], seed=seed, batch_size=256)
            for name, template in TEMPLATES.items()
        }
        print(f"seed {seed}, warm start {seconds:.0f} s, {options.split}, {len(prompts)} games")
        for name, rate in measure(play(prompts, agents, judge=TaskJudge())).items():
            print(f"  {name:21} {rate.value:6.1%}  [{rate.low:.1%}, {rate.high:.1%}]  n={rate.n}")


if __name__ == "__main__":
    main()
