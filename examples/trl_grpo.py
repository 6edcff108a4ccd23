"""How do I train with TRL? Its trainer samples the turns of one role; a reward function plays the games to the end.

A row of TRL's data set is a state of the game: the chat that the role reads, and what was said before. A completion
earns the role's reward for that turn once the game is finished. The feedback agent learns first, against the untrained
conversation agent; then the conversation agent learns drafts, and revisions after the trained feedback agent's
critiques. (TRL's `environment_factory` is for tools that a model calls; there are none here.)

pip install -e '.[trl]'; python examples/trl_grpo.py [--trainer rloo] [--model smollm2 | --model FOLDER]
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from waltz_env import CONVERSATION, FEEDBACK, Agent, AgentID, Prompt, PromptSet, Trajectory, play, score
from waltz_env.agents import Template, TransformersAgent, load_model, load_smollm2, lora_policies
from waltz_env.evaluation import rates
from waltz_env.game import Game
from waltz_env.judges import TaskJudge
from waltz_env.presets import nano, smollm2
from waltz_env.presets.pair import agents_of
from waltz_env.prompts import PromptCursor
from waltz_env.rollout import finish
from waltz_env.rules import Rules

TRAINERS: dict[str, Any] = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}
BATCH = {"per_device_train_batch_size": 32, "steps_per_generation": 4, "num_generations": 8}  # 16 states, 4 steps
OTHER: dict[str, Any] = {"beta": 0.01, "bf16": False, "gradient_checkpointing": False, "save_strategy": "no"}
LORA = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
SHOWN = ("asr", "orr", "r_c", "ftr", "label_accuracy", "format_rate")


def begin(prompt: Prompt, said: Sequence[str]) -> Game:
    """A game after the texts ``said``; it ends with the next turn, or with the revision that this turn asks for."""
    game = Game(prompt, Rules(max_rounds=(len(said) + 1) // 2))
    for text in said:
        game.act(text)
    return game


def states(games: Sequence[Trajectory], role: AgentID, template: Template) -> Dataset:
    """Every state of ``games`` in which it is the turn of ``role``."""
    rows = []
    for number, game in enumerate(games):
        said = [game.responses[0].text, game.critiques[0].completion.text]
        for turn in {FEEDBACK: [1], CONVERSATION: [0, 2] if game.triggered else [0]}[role]:
            chat = template(begin(game.prompt, said[:turn]).observe(role))
            rows.append({"prompt": chat, "game": number, "said": said[:turn]})
    return Dataset.from_list(rows)


def reward(
    games: Sequence[Trajectory], role: AgentID, agents: Mapping[AgentID, Agent], *, completions: Any, **row: Any
) -> list[float | None]:
    """Reward of each completion, a chat of one message, in its row's state; None where the judge failed."""
    begun = [begin(games[number].prompt, said) for number, said in zip(row["game"], row["said"], strict=True)]
    for game, (message,) in zip(begun, completions, strict=True):
        game.act(message["content"])
    finished = zip(finish(begun, agents, judge=TaskJudge()), row["said"], strict=True)
    return [score(game).of(role)[len(said) // 2] if game.judged else None for game, said in finished]


def main(
    trainer: Literal["grpo", "rloo"] = "grpo",
    model: str = "nano",
    steps: tuple[int, int] = (100, 60),
    out: Path = Path("runs/trl"),
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Trains each role for its ``steps``; returns the pair's rates on held-out prompts before and after."""
    preset: Any = nano if model == "nano" else smollm2
    known: dict[str, Any] = {"nano": partial(nano.build_model, seed), "smollm2": load_smollm2}
    lm, tokenizer = known.get(model, partial(load_model, model))()
    prompts = PromptSet(nano.train()) if model == "nano" else PromptSet.load("builtin:train")
    held_out = PromptSet(nano.validation()) if model == "nano" else PromptSet.load("builtin:test")
    trainer_class, config_class = TRAINERS[trainer]
    adapters: dict[AgentID, Path] = {}

    def pair() -> dict[AgentID, TransformersAgent]:
        policies = lora_policies(copy.deepcopy(lm), tokenizer, adapters=adapters)
        return agents_of(policies, seed=seed, templates=preset.TEMPLATES, max_new_tokens=preset.NEW_TOKENS)

    before = rates(play(held_out, pair(), judge=TaskJudge()))
    for role, count in zip((FEEDBACK, CONVERSATION), steps, strict=True):
        agents = pair()
        games = play(PromptCursor(prompts, seed).next(4 * count), agents)
        rows, paid = states(games, role, preset.TEMPLATES[role]), partial(reward, games, role, agents)
        settings = BATCH | OTHER | {"max_steps": count, "max_completion_length": preset.NEW_TOKENS[role]}
        config = config_class(str(out / role), seed=seed, learning_rate=1e-3 if model == "nano" else 3e-4, **settings)
        learner = trainer_class(copy.deepcopy(lm), paid, config, rows, processing_class=tokenizer, peft_config=LORA)
        learner.train()
        learner.save_model(str(out / role))
        adapters[role] = out / role
    after = rates(play(held_out, pair(), judge=TaskJudge()))
    for name in SHOWN:
        print(f"{name:15s} before {before[name].value:.2f}   after {after[name].value:.2f}")
    return {name: (before[name].value, after[name].value) for name in SHOWN}


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
