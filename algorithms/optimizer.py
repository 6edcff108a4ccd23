"""AdamW's state as a flat dict of tensors, for checkpoints without pickle, and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from waltz_env.checks import check_number
from waltz_env.errors import CheckpointError, DivergedError, UsageError
from waltz_env.sharding import fitted

Schedule = Literal["constant", "linear"]
_KEYS = ("exp_avg", "exp_avg_sq", "step")


def schedule_factor(step: int, schedule: Schedule, *, warmup_steps: int = 0, total_steps: int = 0) -> float:
    """Share of the peak learning rate to use in step number ``step``, counted from 0.

    Rises linearly over the first ``warmup_steps`` steps; ``"linear"`` then also falls, to 0 at ``total_steps``.

    >>> [schedule_factor(step, "linear", total_steps=4) for step in range(5)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    warmup = min(1.0, (step + 1) / (warmup_steps + 1))
    return warmup if schedule == "constant" else warmup * max(0.0, 1.0 - step / total_steps)


def check_betas(betas: Sequence[float]) -> None:
    """Check AdamW's moment decays.

    Raises:
        UsageError: they are not two numbers, at least 0 and below 1.
    """
    if len(betas) != 2:
        raise UsageError(f"betas must be two numbers; got {betas!r}.")
    for beta in betas:
        check_number("Each of betas", beta, low=0, below=1)


def check_gradient(norm: Tensor, *, of: str = "The") -> None:
    """Check the norm of a gradient before the optimizer moves any weight by it.

    Args:
        norm: global norm of the gradient.
        of: beginning of the error's sentence, which says whose gradient it is.

    Raises:
        DivergedError: it is NaN or infinite.
    """
    if not bool(norm.isfinite()):
        raise DivergedError(
            f"{of} gradient is not finite (norm {float(norm)}); the weights have not been moved by it. Try a lower "
            "learning rate, and look at the rewards and log-probabilities of its games."
        )


def check_weights(parameters: Sequence[nn.Parameter], *, of: str = "The") -> None:
    """Check weights that optimizer steps have moved: those of the last step are in no gradient any more.

    Args:
        parameters: the weights, after the steps.
        of: beginning of the error's sentence, which says whose weights they are.

    Raises:
        DivergedError: they have values that are NaN or infinite, or so large that their norm is infinite.
    """
    norm = nn.utils.get_total_norm([parameter.detach() for parameter in parameters])
    if not bool(norm.isfinite()):
        raise DivergedError(f"{of} weights are not finite any more (norm {float(norm)}). Try a lower learning rate.")


def moments_of(optimizer: torch.optim.AdamW, parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """Copies of AdamW's moments as ``"exp_avg.3"``, ... by the parameter's index; empty before the first step."""
    return {
        f"{key}.{i}": optimizer.state[parameter][key].detach().cpu().clone()
        for i, parameter in enumerate(parameters)
        if parameter in optimizer.state
        for key in _KEYS
    }


def load_moments(
    optimizer: torch.optim.AdamW, parameters: Sequence[nn.Parameter], *, state: Mapping[str, Tensor]
) -> None:
    """Restore moments returned by ``moments_of``; other keys of ``state`` are ignored.

    Raises:
        CheckpointError: the moments belong to other parameters.
    """
    expected = {f"exp_avg.{i}": tuple(parameter.shape) for i, parameter in enumerate(parameters)}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if name.startswith("exp_avg.")}
    if shapes and shapes != expected:
        raise CheckpointError(
            f"The optimizer's state covers {len(shapes)} parameters and this policy has {len(expected)}, or their "
            "shapes differ. Build the policy with the settings of the checkpoint."
        )
    moments = {i: _moments(state, i, parameter) for i, parameter in enumerate(parameters) if shapes}
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _moments(state: Mapping[str, Tensor], number: int, parameter: nn.Parameter) -> dict[str, Tensor]:
    """AdamW's state of one parameter, split over processes as the parameter is."""
    found = {key: state[f"{key}.{number}"].clone() for key in _KEYS}
    return {key: fitted(each, like=parameter) if each.dim() else each for key, each in found.items()}
