"""What one training step says about itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from waltz_env.algorithms.protocols import Metrics
from waltz_env.evaluation.metrics import rates
from waltz_env.rewards import RewardWeights, score
from waltz_env.types import AgentID, Trajectory


def step_metrics(games: Sequence[Trajectory], updates: Mapping[AgentID, Metrics], *, weights: RewardWeights) -> Metrics:
    """Rates of the games of one step, mean reward per part, and the learners' metrics and speed.

    Args:
        games: games of the step, of all processes.
        updates: metrics of each agent's update.
        weights: weights of the feedback agent's reward.
    """
    scores = [score(game, weights) for game in games if game.judged]
    parts = {
        "reward/conversation": [r for s in scores for r in s.conversation],
        "reward/feedback": [r for s in scores for r in s.feedback],
        "reward/improvement": [r for s in scores for r in s.improvement],
        "reward/label": [r for s in scores for r in s.label],
        "reward/format": [r for s in scores for r in s.format],
    }
    metrics = {f"games/{name}": rate.value for name, rate in rates(games).items()}
    metrics |= {name: float(np.mean(values)) for name, values in parts.items() if values}
    for agent, update in updates.items():
        metrics |= {f"{agent}/{name}": value for name, value in update.items()}
        metrics[f"{agent}/update_tokens_per_second"] = update.get("tokens", 0.0) / update["update_seconds"]
    return metrics
