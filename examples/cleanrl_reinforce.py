"""How does it learn? The whole method in one file, in the style of CleanRL: REINFORCE for both roles, in plain PyTorch.

The environment plays, judges and scores the games; the agents sample and keep the token ids they sampled. Loss,
baseline and optimizer are all here: nothing from ``waltz_env.algorithms`` is used.
python examples/cleanrl_reinforce.py [--seed 1]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from torch import Tensor

from waltz_env import AGENTS, FEEDBACK, Labels, PromptSet, RewardWeights, Trajectory, play, score
from waltz_env.agents import LanguageModelPolicy
from waltz_env.evaluation import rates
from waltz_env.judges import TaskJudge
from waltz_env.presets import lora_pair, nano
from waltz_env.prompts import PromptCursor

SHOWN = ("r_c_first", "r_c", "ftr", "label_accuracy", "format_rate")
Row = tuple[tuple[int, ...], tuple[int, ...]]  # ids of a prompt, and the ids sampled after it


@dataclass(frozen=True, slots=True)
class Args:
    """Flags of the experiment."""

    seed: int = 0
    steps: int = 240
    """number of updates"""
    feedback_alone: int = 120
    """updates during which the conversation agent is frozen (stage 1 of the paper)"""
    games: int = 32
    """games per update; every turn of each game is a training row"""
    learning_rate: float = 1e-3
    label_weight: float = 0.25
    """lambda of the feedback agent's reward"""
    log_every: int = 20


def logprobs(policy: LanguageModelPolicy, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Log-probability of each sampled token, (B, T) float32, and a mask of real tokens, (B, T) bool."""
    before, after = (max(map(len, part)) for part in zip(*rows, strict=True))
    ids = torch.zeros(len(rows), before + after, dtype=torch.int64)
    seen = torch.zeros_like(ids)
    for i, (prompt, sampled) in enumerate(rows):
        filled = slice(before - len(prompt), before + len(sampled))
        ids[i, filled], seen[i, filled] = torch.tensor(prompt + sampled), 1
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    logits = policy.logits(ids, seen, positions, keep=after + 1)[:, :-1]  # (B, T, V); each predicts the next token
    chosen = torch.log_softmax(logits, -1).gather(-1, ids[:, before:, None])
    return chosen.squeeze(-1), seen[:, before:].bool()


def main(args: Args) -> list[dict[str, float]]:
    """Trains both roles; returns the learning curve."""
    weights = RewardWeights(label=args.label_weight)
    model, tokenizer = nano.build_model(args.seed)
    agents = lora_pair(model, tokenizer, seed=args.seed, templates=nano.TEMPLATES, max_new_tokens=nano.NEW_TOKENS)
    policies = {name: agent.policy for name, agent in agents.items()}
    optimizers = {name: torch.optim.AdamW(policy.parameters(), args.learning_rate) for name, policy in policies.items()}
    cursor, judge = PromptCursor(PromptSet(nano.train()), args.seed), TaskJudge()
    curve: list[dict[str, float]] = []
    recent: list[Trajectory] = []

    for step in range(1, args.steps + 1):
        # Rollout: a batch of games; each turn keeps the token ids it sampled.
        games = play(cursor.next(args.games), agents, judge=judge)
        recent += games
        for name in (FEEDBACK,) if step <= args.feedback_alone else AGENTS:
            rows: list[Row] = []
            rewards: list[float] = []
            states: list[Labels | None] = []
            for game in games:  # one row per turn
                turns = game.critiques if name == FEEDBACK else game.responses
                rows += [(turn.completion.prompt_ids or (), turn.completion.token_ids or ()) for turn in turns]
                rewards += score(game, weights).of(name)
                # The state the agent acted in: the judge's labels of the latest response, or None before a draft.
                labels = [response.labels for response in game.responses]
                states += labels[: len(turns)] if name == FEEDBACK else [None, *labels[:-1]]

            # Advantages: the baseline is the mean reward in the same state, as a bad draft is not the reviewer's fault.
            baselines = [np.mean([r for r, s in zip(rewards, states, strict=True) if s == state]) for state in states]
            advantages = torch.tensor(np.array(rewards) - baselines, dtype=torch.float32)
            advantages /= advantages.std(correction=0) + 1e-8

            # Policy loss and update
            new_logprobs, mask = logprobs(policies[name], rows)
            loss = -(advantages[:, None] * new_logprobs)[mask].mean()
            optimizers[name].zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policies[name].parameters(), 1.0)
            optimizers[name].step()
            policies[name].version += 1

        if step % args.log_every == 0:
            shown = {name: rate.value for name, rate in rates(recent).items() if name in SHOWN}
            print(f"step {step:4d}", *(f"{name} {value:.2f}" for name, value in shown.items()), sep="   ")
            curve.append(shown)
            recent = []
    return curve


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
