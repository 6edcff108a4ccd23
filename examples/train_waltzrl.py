"""How does two-stage WaltzRL training look, written out? Model, pair, prompts, stages, train, evaluate.

Trains the laboratory model in minutes by default; ``--model`` names any causal LM with a chat template, which is
trained on the built-in prompts. python examples/train_waltzrl.py [--model FOLDER_OR_NAME] [--steps 36 22] [--games 128]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from waltz_env import CONVERSATION, FEEDBACK, PromptSet
from waltz_env.agents import TEMPLATES, load_model
from waltz_env.algorithms import LoopConfig, SampleConfig, Stage, algorithm, play_held_out, train
from waltz_env.evaluation import rates
from waltz_env.judges import EmbeddingJudge, TaskJudge
from waltz_env.presets import lora_pair, nano
from waltz_env.rewards import SETUP_A, SETUP_B


def main(
    model: str | None = None,
    steps: tuple[int, int] = (36, 22),
    games: int = 128,
    out: Path = Path("runs/train_waltzrl"),
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Trains a pair; returns its rates on held-out prompts before and after."""
    lm, tokenizer = nano.build_model(seed) if model is None else load_model(model)
    if model is None:
        templates, lengths = nano.TEMPLATES, nano.NEW_TOKENS
        prompts, held_out = PromptSet(nano.train()), PromptSet(nano.validation())
    else:
        templates, lengths = TEMPLATES, {CONVERSATION: 512, FEEDBACK: 512}
        prompts, held_out = PromptSet.load("builtin:train"), PromptSet.load("builtin:test")

    # One base model, two adapters: the base with its adapters off is the frozen reference of both agents.
    agents = lora_pair(lm, tokenizer, templates=templates, max_new_tokens=lengths, seed=seed)
    judge = TaskJudge() if model is None else EmbeddingJudge()
    rates_of = (1e-3, 5e-4, 1e-3) if model is None else (1e-4, 1e-4, 1e-4)  # learning rates
    # The feedback agent's baseline is the mean reward among games in the same state; see docs/nano.md.
    feedback, feedback_2 = (
        algorithm("reinforce++", baseline="group", learning_rate=rate, beta=beta, minibatches=4)
        for rate, beta in zip(rates_of, (0.02, 0.1), strict=False)
    )
    conversation = algorithm("reinforce++", learning_rate=rates_of[2], minibatches=4)
    stages = [
        # Stage 1: the conversation agent is frozen; the feedback agent learns format, labels and advice.
        Stage("stage-1", steps[0], {FEEDBACK: feedback}, SETUP_A),
        # Stage 2: both agents learn. No reward for correct labels any more, but the feedback agent stays close to the
        # policy that stage 1 left: that keeps the labels correct.
        Stage("stage-2", steps[1], {FEEDBACK: feedback_2, CONVERSATION: conversation}, SETUP_B, reset_reference=True),
    ]

    def evaluate() -> dict[str, float]:
        final = rates(play_held_out(held_out, agents, judge=judge))
        return {name: final[name].value for name in ("asr", "orr", "ftr", "label_accuracy", "format_rate")}

    before = evaluate()
    finished = train(
        agents,
        stages,
        judge=judge,
        prompts=prompts,
        folder=out,
        config=LoopConfig(games=games, samples=SampleConfig(turns="all", group="labels")),
        seed=seed,
    )
    after = evaluate()
    for name in before:
        print(f"{name:15s} before {before[name]:.2f}   {'after' if finished else 'so far'} {after[name]:.2f}")
    return {"before": before, "after": after}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub name of a chat model; the laboratory model by default")
    parser.add_argument("--steps", type=int, nargs=2, default=(36, 22), help="steps of stage 1 and of stage 2")
    parser.add_argument("--games", type=int, default=128, help="games per step")
    parser.add_argument("--out", type=Path, default=Path("runs/train_waltzrl"))
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
