"""What does SmolLM2-135M-Instruct do before anything is taught to it?

The original model drafts under the smollm2 preset's system prompts and token limit, and the rule judge labels the
drafts. On some of them, the full system prompt asks for feedback: how much of it is well-formed JSON?

    python benchmarks/smollm2_original.py --prompts builtin:test strongreject --out original.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from waltz_env.agents import TEMPLATES, TransformersAgent, fast_dtype, load_smollm2, lora_policies
from waltz_env.evaluation.metrics import proportion, rates
from waltz_env.feedback import parse_feedback
from waltz_env.game import Game
from waltz_env.judges import EmbeddingJudge
from waltz_env.presets import smollm2
from waltz_env.prompts import PromptSet
from waltz_env.rollout import play
from waltz_env.rules import Rules
from waltz_env.types import CONVERSATION, FEEDBACK, Observation, Trajectory

SHOWN = ("asr", "orr", "non_answer")
FEEDBACK_TOKENS = 96


def reviewed(drafted: Trajectory) -> Observation:
    """The feedback agent's observation of a draft."""
    game = Game(drafted.prompt)
    game.act(drafted.final.completion)
    return game.observe(FEEDBACK)


def main() -> None:
    """Plays, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", nargs="+", default=["builtin:test", "strongreject"])
    parser.add_argument(
        "--feedback", type=int, default=32, help="number of drafts of the first set to give feedback on, approximately"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    policies = lora_policies(*load_smollm2())
    dtype = fast_dtype(policies[CONVERSATION].device)
    drafter = TransformersAgent(
        policies[CONVERSATION],
        smollm2.TEMPLATES[CONVERSATION],
        max_new_tokens=smollm2.OPTIONS.max_new_tokens,
        batch_size=smollm2.OPTIONS.batch_size,
        sampling_dtype=dtype,
    )
    reviewer = TransformersAgent(
        policies[FEEDBACK], TEMPLATES[FEEDBACK], max_new_tokens=FEEDBACK_TOKENS, sampling_dtype=dtype
    )
    found = {}
    for number, name in enumerate(options.prompts):
        games = play(PromptSet.load(name), {CONVERSATION: drafter}, judge=EmbeddingJudge(), rules=Rules(max_rounds=0))
        found[name] = {metric: rates(games)[metric].as_dict() for metric in SHOWN}
        if number == 0 and options.feedback:
            critiques = reviewer.act([reviewed(game) for game in games[:: max(1, len(games) // options.feedback)]])
            found[name]["format_rate"] = proportion(
                parse_feedback(each.text).well_formed for each in critiques
            ).as_dict()
        for metric, rate in found[name].items():
            print(f"{name:16}{metric:13}{rate['value']}  [{rate['low']}, {rate['high']}]  n={rate['n']}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
