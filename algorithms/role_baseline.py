"""REINFORCE with a moving average of past rewards as baseline, one for each role: agent and turn.

1. As role-conditioned advantage estimation (SPIRAL, arXiv:2506.24119): b <- decay b + (1 - decay) R, then A = R - b,
   with one b a role, so that no role's luck counts as another's merit; decay 0.95 there and here; no normalisation, no
   critic.
2. Different: a role is an agent in one turn, so that drafts and revisions have baselines of their own, and b follows
   the mean reward of each batch, once an update, not each game.
3. Different: b is corrected for its start at 0 as Adam's moments are (b / (1 - decay^n)); the first b is the mean of
   the first batch.
4. Different: the KL penalty is a k2 term of the loss, and the gradient goes through the clipped objective, which in one
   on-policy step is that of REINFORCE (Williams 1992): ``aggregation="sum"``, the log-probability of the whole action.
5. An update is skipped and counted only where no reward differs from its baseline: a batch that is all better than
   before has something to teach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate.accelerator import Accelerator
from torch import Tensor

from waltz_env.algorithms.advantages import group_moments
from waltz_env.algorithms.losses import Aggregation
from waltz_env.algorithms.protocols import Metrics, Policy, Sample
from waltz_env.algorithms.rollouts import Row, summary
from waltz_env.algorithms.surrogate import Surrogate, SurrogateConfig
from waltz_env.errors import UsageError

Role = tuple[str, int]
"""An agent and its turn."""

_PREFIX = "baseline"


@dataclass(frozen=True, slots=True)
class RoleBaselineConfig(SurrogateConfig):
    """Settings of the learner with role-conditioned baselines.

    Attributes:
        decay: share of a baseline that one update keeps, in [0, 1).
    """

    aggregation: Aggregation = "sum"
    decay: float = 0.95

    def __post_init__(self) -> None:
        SurrogateConfig.__post_init__(self)
        if not 0 <= self.decay < 1:
            raise UsageError(f"decay must be at least 0 and below 1; got {self.decay}.")

    def build(self, policy: Policy, accelerator: Accelerator | None = None) -> RoleBaseline:
        """A new learner for ``policy``."""
        return RoleBaseline(policy, self, accelerator)


class MovingAverages:
    """The mean reward of each role over recent updates."""

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._averages: dict[Role, tuple[float, int]] = {}

    def __getitem__(self, role: Role) -> float:
        average, updates = self._averages[role]
        return average / (1 - self._decay**updates)

    def follow(self, rows: Sequence[Row]) -> None:
        """Moves the average of each role in ``rows`` towards its mean reward there."""
        batch = group_moments([(row.agent, row.turn) for row in rows], [row.reward for row in rows])
        for role, moments in batch.items():
            average, updates = self._averages.get(role, (0.0, 0))
            self._averages[role] = (self._decay * average + (1 - self._decay) * moments.mean, updates + 1)

    def state_dict(self) -> dict[str, Tensor]:
        """``"baseline/AGENT/TURN"``: average and number of updates, float64."""
        return {
            f"{_PREFIX}/{agent}/{turn}": torch.tensor(each, dtype=torch.float64)
            for (agent, turn), each in self._averages.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what ``state_dict`` gave; other keys of ``state`` are left alone."""
        self._averages = {}
        for name, tensor in state.items():
            if name.startswith(f"{_PREFIX}/"):
                _, agent, turn = name.split("/")
                average, updates = tensor.tolist()
                self._averages[agent, int(turn)] = (average, int(updates))


class RoleBaseline:
    """REINFORCE with role-conditioned baselines on one policy; implements ``Learner``.

    Arguments and errors as of ``Surrogate``.
    """

    def __init__(self, policy: Policy, config: RoleBaselineConfig, accelerator: Accelerator | None = None) -> None:
        self.policy = policy
        self.config = config
        self._surrogate = Surrogate(policy, config, accelerator)
        self._baselines = MovingAverages(config.decay)

    def update(self, samples: Sequence[Sample]) -> Metrics:
        """One update from the rows of one batch of games; adds one to ``policy.version`` unless it is skipped.

        Returns:
            Over the rows of all processes: ``skipped`` (1 or 0), ``baseline`` (mean over rows) and what
            ``rollouts.summary`` says of the rows; where not skipped also what ``Surrogate.rollouts`` and
            ``Surrogate.improve`` say.
        """
        surrogate = self._surrogate
        rows = surrogate.rows(samples)
        metrics = summary(rows, self.policy.version)
        self._baselines.follow(rows)
        baselines = [self._baselines[row.agent, row.turn] for row in rows]
        surprises = [abs(row.reward - baseline) for row, baseline in zip(rows, baselines, strict=True)]
        if not rows or max(surprises) < self.config.min_reward_std:
            return metrics | {"skipped": 1.0}
        rollouts, known = surrogate.rollouts(samples)
        advantages = [sample.reward - self._baselines[sample.agent, sample.turn] for sample in samples]
        learned = surrogate.improve(rollouts, rollouts.spread(advantages), kl="k2")
        return metrics | {"skipped": 0.0, "baseline": sum(baselines) / len(rows)} | known | learned

    def state_dict(self) -> dict[str, Tensor]:
        """The state of its ``Surrogate`` and the baselines."""
        return self._surrogate.state_dict() | self._baselines.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what ``state_dict`` gave.

        Raises:
            CheckpointError: it is of another set of parameters.
        """
        self._surrogate.load_state_dict(state)
        self._baselines.load_state_dict(state)
